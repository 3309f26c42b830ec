"""What is on this machine: the cache that the Hugging Face libraries share, read without importing them.

`models--owner--name/snapshots/<commit>/<file>` are links to `blobs/<checksum>`; the checksum is the sha256 of a large
file and the git hash of a small one. Weights that another program fetched are found here too. Nothing here touches
the network.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from gap3d_app.sources.catalog import Source, by_repo

CHUNK = 1 << 22


def cache_dir() -> Path:
    """The cache's folder: HF_HUB_CACHE, or `hub` in HF_HOME, or ~/.cache/huggingface/hub."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    general = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or general / "huggingface").expanduser() / "hub"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network, as the Hugging Face libraries read it."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def repo_dir(repo: str) -> Path:
    """The cache folder of a repository, whether or not it exists."""
    return cache_dir() / ("models--" + repo.replace("/", "--"))


def revision_here(repo: str) -> str | None:
    """The commit that is used for a repository: the catalog's, else the newest that another program has fetched."""
    entry = by_repo(repo)
    if entry:
        return entry.revision
    reference = repo_dir(repo) / "refs" / "main"
    return reference.read_text(encoding="utf-8", errors="replace").strip() if reference.is_file() else None


def find(repo: str) -> Path | None:
    """The folder of a repository's files at the revision in use, or None when there is none."""
    revision = revision_here(repo)
    folder = repo_dir(repo) / "snapshots" / (revision or "none")
    return folder if folder.is_dir() else None


def missing_files(source: Source, extra: bool = False) -> list[str]:
    """The needed files of a source that are not here, with `extra` the other ones too."""
    folder, names = find(source.repo), source.files + (source.extra if extra else ())
    return [name for name in names if folder is None or not (folder / name).is_file()]


def recorded_checksum(path: Path) -> str | None:
    """The checksum that the cache recorded for a file, or None for a file outside such a cache."""
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def checksum(path: Path, like: str) -> str:
    """Checksum of a file's content in the kind of `like`: sha256 (64 digits) or git's blob hash (40)."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def fingerprint(files: Iterable[Path]) -> str:
    """sha256 (hex) that stands for a set of weight files, cheap enough for every start.

    Files of the cache enter with their recorded checksum; others with their size and, for safetensors, their
    header, so that an altered value in a file of one's own goes unnoticed here (`weights verify` reads it all).
    """
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        known = recorded_checksum(path)
        if known is None:
            with path.open("rb") as file:
                known = f"{path.stat().st_size} {hashlib.sha256(file.read(1 << 16)).hexdigest()}"
        digest.update(f"{path.name} {known}\n".encode())
    return digest.hexdigest()
