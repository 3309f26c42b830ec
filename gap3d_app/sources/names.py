"""What a person may call weights, and whether they are here; no torch, so that a wrong name is known at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gap3d_app.errors import WeightsError
from gap3d_app.hub import PIPELINE, embedded_names
from gap3d_app.sources import catalog, store

Names = str | Path | list[str | Path] | tuple[str | Path, ...]


def split(given: Names) -> Names:
    """Several names with commas between them as a list; anything else as it is."""
    several = isinstance(given, str) and "," in given and not Path(given).is_dir()
    return [name for part in given.split(",") if (name := part.strip())] if several else given


def is_assembled(given: Names) -> bool:
    """Whether this names public parts, and not one folder with a pipeline of the app's own."""
    if isinstance(given, list | tuple):
        return True
    if isinstance(given, str) and given in embedded_names():
        return False
    folder = Path(given)
    if not folder.is_dir():
        return repository(str(given)) is not None
    if not (folder / PIPELINE).is_file():
        return (folder / "config.json").is_file()
    try:
        return str(read_json(folder / PIPELINE).get("name", "")).startswith("Trellis")
    except WeightsError:
        return False  # the app's own loader says what is wrong


def locate(item: str | Path) -> Path:
    """The folder of a local path, a catalog name or a hub repository that was downloaded.

    Raises:
        WeightsError: it is not on this machine; the message says how to get it.
    """
    folder = Path(item)
    if folder.is_dir():
        return folder
    repo = repository(str(item))
    if repo is None:
        if str(item) in embedded_names():
            raise WeightsError(f"The weights {str(item)!r} are a whole pipeline; give them alone.")
        known = ", ".join(entry.name for entry in catalog.SOURCES)
        raise WeightsError(
            f"There is no weights folder {str(item)!r}; give a folder, or one of {known} (python -m gap3d_app weights "
            "list)."
        )
    found, entry = store.find(repo), catalog.by_repo(repo)
    if found is not None and not (entry and store.missing_files(entry)):
        return found
    part = "complete " if found is not None else ""
    raise WeightsError(
        f"The weights {repo!r} are not {part}on this machine; get them ({catalog.human(entry.size)}) with "
        f"python -m gap3d_app weights pull {entry.name}."
    )


def repository(text: str) -> str | None:
    """"owner/name" for a short name of the catalog, or for a repository that it lists or that was downloaded."""
    for entry in catalog.SOURCES:
        if text == entry.name:
            return entry.repo
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        return None
    known = catalog.by_repo(text)
    return known.repo if known else text if store.find(text) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsError: missing, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise WeightsError(f"The file {path.name!r} of {path.parent.name!r} cannot be used: {error}.") from None
