"""`weights list`, `weights pull` and `weights verify`: what the command line does with the catalog."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gap3d_app import hub
from gap3d_app.errors import WeightsError
from gap3d_app.sources import catalog, store
from gap3d_app.sources.catalog import Source, human


def listing() -> list[dict[str, Any]]:
    """One entry for every known set of weights: the embedded ones, then the public ones.

    `files` gives the recorded checksum of every file that is here: sha256 (64 digits), or git's hash (40) of small
    files of the hub.
    """
    rows = []
    for name in hub.embedded_names():
        folder = hub.EMBEDDED / name
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        rows.append({
            "name": name, "repo": None, "revision": None, "bytes": size, "licence": "Apache-2.0",
            "gives": "text and image prompts on any machine", "needs": [], "here": True, "folder": str(folder),
            "files": _manifest(folder),
        })  # fmt: skip
    for entry in catalog.SOURCES:
        folder = store.find(entry.repo)
        here = not store.missing_files(entry)
        rows.append({
            "name": entry.name, "repo": entry.repo, "revision": store.revision_here(entry.repo), "bytes": entry.size,
            "licence": entry.licence, "gives": entry.gives, "needs": list(entry.needs), "here": here,
            "folder": str(folder) if here else None,
            "files": {name: store.recorded_checksum(folder / name) for name in _files_here(entry)},
        })  # fmt: skip
    return rows


def _files_here(source: Source) -> list[str]:
    """The files of a complete source; none of an incomplete one."""
    if store.missing_files(source):
        return []
    absent = store.missing_files(source, extra=True)
    return [name for name in source.files + source.extra if name not in absent]


def _manifest(folder: Path) -> dict[str, str]:
    """Checksums of an embedded folder; none when its manifest cannot be read, which `verify` explains."""
    try:
        return {name: entry["sha256"] for name, entry in json.loads((folder / hub.MANIFEST).read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def table(rows: list[dict[str, Any]]) -> str:
    """The listing for people."""
    lines = [f"{'name':22}{'size':>9}  {'here':5}{'licence':12}for"]
    notes = []
    for row in rows:
        licence, _, terms = row["licence"].partition(":")
        if terms:
            notes.append(f"{row['name']}: {row['licence']}.")
            licence = "research"
        here = "yes" if row["here"] else "no"
        lines.append(f"{row['name']:22}{human(row['bytes']):>9}  {here:5}{licence:12}{row['gives']}")
    lines += ["", *notes, "A GAP3D checkpoint is not published; name a folder of your own with --weights."]
    return "\n".join(lines)


def with_needs(names: list[str]) -> list[Source]:
    """The catalog entries of the names and of what they need, each once, needs after what needs them.

    Raises:
        InputError: a name is not in the catalog.
    """
    found: list[Source] = []
    waiting = [catalog.source(name) for name in names]
    while waiting:
        entry = waiting.pop(0)
        if entry not in found:
            found.append(entry)
            waiting += [catalog.source(name) for name in entry.needs]
    return found


def pull_all(names: list[str], alone: bool, say: Callable[[str], None], progress: bool) -> list[Path]:
    """Fetch the named sources and, unless `alone`, what they need.

    Raises:
        InputError: a name is unknown.
        WeightsError: see `pull.pull`.
    """
    entries = [catalog.source(name) for name in names] if alone else with_needs(names)
    for entry in entries:
        if ":" in entry.licence:
            say(f"{entry.name}: {entry.licence}")
    from gap3d_app.sources.pull import check_room, pull

    check_room(entries)
    return [pull(entry, say, progress) for entry in entries]


def verify_all(names: list[str], say: Callable[[str], None]) -> None:
    """Read every file of the named weights, of all that are here when none is named, and compare checksums.

    Raises:
        InputError: a name is unknown.
        WeightsError: a file is missing or altered; named with both checksums.
    """
    embedded = hub.embedded_names()
    if not names:
        names = embedded + [entry.name for entry in catalog.SOURCES if store.find(entry.repo)]
    for name in names:
        if name in embedded:
            hub.verify(hub.EMBEDDED / name)
            say(f"{name}: as in its manifest")
        else:
            say(f"{name}: {verify(catalog.source(name))} files as the hub recorded them")


def verify(source: Source) -> int:
    """Number of files compared.

    Raises:
        WeightsError: a file is missing, altered, or has no recorded checksum.
    """
    again = f"python -m gap3d_app weights pull {source.name}"
    missing = store.missing_files(source)
    if missing:
        raise WeightsError(f"The weights {source.name!r} lack {missing[0]!r}; get it with {again}.")
    folder = store.find(source.repo)
    names = _files_here(source)
    for name in names:
        path = folder / name
        expected = store.recorded_checksum(path)
        if expected is None:  # a copy of the cache without its links has the blobs beside the files
            blobs = store.repo_dir(source.repo) / "blobs"
            if any((blobs / store.checksum(path, "0" * digits)).is_file() for digits in (64, 40)):
                continue
            raise WeightsError(
                f"The file {name!r} of {source.name!r} has no recorded checksum to compare with, or was changed; "
                f"delete {str(folder)!r} and run {again}."
            )
        found = store.checksum(path, expected)
        if found != expected:
            raise WeightsError(
                f"The file {name!r} of {source.name!r} was changed: expected {expected}, found {found}; delete "
                f"{str(path.resolve())!r} and run {again}."
            )
    return len(names)
