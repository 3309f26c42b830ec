"""Download of catalog entries through huggingface_hub into the cache that its users share.

Every file is resumed where an earlier try stopped, compared with the hub's checksum (sha256 of a large file, git's
hash of a small one) before it takes its place, and asked for at one fixed commit.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gap3d_app.errors import Gap3DError, WeightsError
from gap3d_app.sources import store
from gap3d_app.sources.catalog import Source, human

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}

SPARE_BYTES = 200_000_000
"""What a download leaves free on the disk."""


@dataclass(frozen=True)
class _Remote:
    """What the hub says about one file."""

    name: str
    size: int
    checksum: str
    location: str

    def blob(self, repo: str) -> Path:
        return store.repo_dir(repo) / "blobs" / self.checksum

    def partial(self, repo: str) -> Path:
        return self.blob(repo).with_name(self.checksum + ".partial")

    def here(self, repo: str) -> int:
        """Bytes that need no download."""
        for path in (self.blob(repo), self.partial(repo)):
            if path.is_file():
                return min(path.stat().st_size, self.size)
        return 0


def pull(
    source: Source, say: Callable[[str], None] = print, progress: bool = True, endpoint: str | None = None
) -> Path:
    """Fetch what is missing of a source.

    Args:
        source: the catalog entry.
        say: takes one line a file.
        progress: show huggingface_hub's bars on standard error.
        endpoint: the hub's address; HF_ENDPOINT, else the public hub, when None.

    Returns:
        The folder with the files.

    Raises:
        WeightsError: offline, no room on the disk, the hub cannot be reached or lacks a file, or a download is not
            what the hub announced (named with both checksums).
    """
    if not store.missing_files(source, extra=True):
        say(f"{source.name}: already here")
        return store.find(source.repo)
    if store.offline():
        raise WeightsError(
            f"The weights {source.name!r} are not complete on this machine and the network is off; unset "
            "HF_HUB_OFFLINE, leave out --offline, or copy the cache from another machine."
        )
    try:
        remote = [_ask(source, name, endpoint) for name in source.files + source.extra]
        _check_room(source, remote)
        for number, file in enumerate(remote, 1):
            if not file.blob(source.repo).is_file():
                file = _ask(source, file.name, endpoint)  # addresses of large files hold for minutes only
            fetched = _fetch(source, file, progress)
            _link(source, file)
            say(f"{source.name} {number}/{len(remote)}: {file.name}, {human(file.size)}{fetched}")
    except Gap3DError:
        raise
    except Exception as error:  # whatever the HTTP library of the day raises, and full or read-only disks
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"The download of {source.name!r} stopped ({reason[0].rstrip('.')}); {_way_out(error, source)}."
        ) from error
    return store.find(source.repo)


def _way_out(error: Exception, source: Source) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"accept the terms of {source.repo} on the hub, sign in with `hf auth login` and run the command again"
    if status == 404:
        return f"the hub has not, or no longer, what this version asks of {source.repo}; see docs/weights.md"
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return f"make room and rights in {str(store.cache_dir())!r}, or set HF_HUB_CACHE to another folder"
    return "run the command again, it goes on where it stopped"


def _ask(source: Source, name: str, endpoint: str | None) -> _Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=endpoint)
    found = get_hf_file_metadata(url, endpoint=endpoint, retry_on_errors=True)
    if not found.etag or not set(found.etag) <= set("0123456789abcdef") or len(found.etag) not in (40, 64):
        raise WeightsError(f"The hub gives no checksum for {name!r} of {source.repo!r}; nothing was downloaded.")
    if found.commit_hash not in (None, source.revision):
        raise WeightsError(
            f"The hub gives {name!r} of {source.repo!r} at commit {found.commit_hash}, not at the pinned "
            f"{source.revision}."
        )
    return _Remote(name, found.size or 0, found.etag, found.location)


def check_room(sources: list[Source]) -> None:
    """Whether several sources fit the disk together, by the catalog's sizes, before the first is fetched.

    Raises:
        WeightsError: they do not.
    """
    wanted = 0
    for source in sources:
        blobs = store.repo_dir(source.repo) / "blobs"
        here = sum(path.stat().st_size for path in blobs.glob("*") if path.is_file())
        wanted += max(0, source.size - here) if store.missing_files(source) else 0
    if len(sources) > 1:
        _require_free(" and ".join(source.name for source in sources), wanted)


def _check_room(source: Source, remote: list[_Remote]) -> None:
    _require_free(source.name, sum(file.size - file.here(source.repo) for file in remote))


def _require_free(name: str, wanted: int) -> None:
    folder = store.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise WeightsError(
            f"The weights {name!r} need {human(wanted)} more on the disk and {human(SPARE_BYTES)} to spare, but "
            f"{human(free)} are free in {str(folder)!r}; make room or set HF_HUB_CACHE to another disk."
        )


def _fetch(source: Source, file: _Remote, progress: bool) -> str:
    """Bring one file into place; returns how, for people."""
    from huggingface_hub.utils import WeakFileLock

    blob, partial = file.blob(source.repo), file.partial(source.repo)
    lock = store.cache_dir() / ".locks" / store.repo_dir(source.repo).name / f"{file.checksum}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # the libraries' own, so that two programs do not fetch the same file
        if blob.is_file():
            return " (was here)"
        start = partial.stat().st_size if partial.is_file() else 0
        if start > file.size:
            partial.unlink()
            start = 0
        with partial.open("ab") as target:
            _get(file, target, start, progress)
        found = store.checksum(partial, file.checksum)
        if found != file.checksum:
            partial.unlink()
            kind = "sha256" if len(file.checksum) == 64 else "git hash"
            raise WeightsError(
                f"The download of {file.name!r} of {source.repo!r} is damaged: expected {kind} {file.checksum}, "
                f"found {found}; it was removed, run the command again."
            )
        partial.replace(blob)
    return f" (resumed at {human(start)})" if start else ""


def _get(file: _Remote, target: Any, start: int, progress: bool) -> None:
    """One GET with a Range where some bytes are here; lost connections are taken up again by the library."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers
    from huggingface_hub.utils import disable_progress_bars as hide
    from huggingface_hub.utils import enable_progress_bars as show

    # A file that lies on another host is asked for there, where the user's token has no business.
    headers = build_hf_headers() if "/resolve/" in file.location else {}
    headers["Accept-Encoding"] = "identity"  # a packed answer has no length, and its rest cannot be asked for
    hidden = are_progress_bars_disabled()
    if not progress:
        hide()
    try:
        http_get(
            file.location, target, resume_size=start, headers=headers, expected_size=file.size,
            displayed_filename=file.name,
        )  # fmt: skip
    finally:
        if not hidden:
            show()


def _link(source: Source, file: _Remote) -> None:
    """`snapshots/<commit>/<file>` to the blob, or a copy where links cannot be made."""
    path = store.repo_dir(source.repo) / "snapshots" / source.revision / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        return
    path.unlink(missing_ok=True)  # a link to a blob that has gone
    blob = file.blob(source.repo)
    up = len(path.relative_to(store.repo_dir(source.repo)).parts) - 1
    try:
        path.symlink_to(Path(*[".."] * up, "blobs", blob.name))
    except OSError:
        shutil.copyfile(blob, path)
