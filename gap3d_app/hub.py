"""Where weights come from, and whether they are what they should be.

A weights folder holds pipeline.json, the model files it names, and manifest.json, which gives the sha256 and
the size in bytes of each file. Every file is hashed before it is used (0.1 s for 110 MB). Nothing here touches
the network.
"""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gap3d_app.errors import WeightsError

EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
MANIFEST = "manifest.json"
PIPELINE = "pipeline.json"
FAMILY = "Gap3DPipeline"
"""What pipeline.json of the app's own weights names."""


def embedded_names() -> list[str]:
    """Names of the weights that come with the repository."""
    return sorted(path.parent.name for path in EMBEDDED.glob(f"*/{PIPELINE}"))


def resolve(name_or_dir: str | Path) -> Path:
    """The folder for a name ("gap3d-mini") or a path.

    Raises:
        WeightsError: no such folder, or a folder without pipeline.json.
    """
    named = EMBEDDED / str(name_or_dir)
    is_name = isinstance(name_or_dir, str) and Path(name_or_dir).name == name_or_dir not in ("", ".", "..")
    folder = named if is_name and named.is_dir() else Path(name_or_dir)
    if not folder.is_dir():
        known = ", ".join(embedded_names()) or "none"
        raise WeightsError(
            f"There are no weights {str(name_or_dir)!r}: give a folder that holds {PIPELINE}, or an embedded "
            f"name ({known})."
        )
    if not (folder / PIPELINE).is_file():
        raise WeightsError(f"The folder {str(name_or_dir)!r} holds no {PIPELINE}; give a weights folder.")
    return folder


def verify(folder: Path) -> str:
    """Compare every file of a weights folder with its manifest.

    Returns:
        sha256 (hex) of the manifest itself, which stands for all files; recipes carry it.

    Raises:
        WeightsError: the manifest is missing or damaged; a listed file is missing or differs in size or
            content; a model file is not listed. The message names the file with expected and found sha256.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        entries = {str(name): (str(e["sha256"]), int(e["bytes"])) for name, e in json.loads(content).items()}
    except FileNotFoundError:
        raise WeightsError(
            f"The weights folder {folder.name!r} has no {MANIFEST}; for weights of your own, write it with "
            "python -m gap3d_app.hub FOLDER."
        ) from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise WeightsError(f"The file {MANIFEST} of {folder.name!r} is damaged: {error}.") from error
    if PIPELINE not in entries:
        raise WeightsError(f"The {MANIFEST} of {folder.name!r} lacks {PIPELINE}; get the folder again.")
    unlisted = sorted(set(_listed_files(folder)) - set(entries))
    if unlisted:
        raise WeightsError(f"The file {unlisted[0]!r} of {folder.name!r} is not in {MANIFEST}; remove it.")
    with ThreadPoolExecutor(2) as pool:  # hashing releases the interpreter lock
        for problem in pool.map(lambda item: _difference(folder, item[0], *item[1]), entries.items()):
            if problem:
                raise WeightsError(problem)
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path) -> Path:
    """Hash all model files, tokenizers and configurations of a folder into its manifest.json."""
    entries = {
        name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in _listed_files(folder)
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_pipeline(folder: Path) -> dict:
    """The "args" of pipeline.json.

    Raises:
        WeightsError: not JSON, not of the expected form, or of another family of models.
    """
    try:
        content = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))
        args, name = content["args"], content.get("name")
        if not isinstance(args, dict) or not isinstance(args.get("models"), dict):
            raise ValueError("no models")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"The file {PIPELINE} of {folder.name!r} cannot be used: {error}.") from error
    if name != FAMILY:
        raise WeightsError(
            f"The weights {folder.name!r} are of another family: {PIPELINE} names {str(name)[:60]!r}, not {FAMILY!r}; "
            "give weights of this app, or public ones that docs/weights.md lists."
        )
    return args


def _listed_files(folder: Path) -> list[str]:
    found = (path for pattern in ("*.json", "*.safetensors") for path in folder.rglob(pattern))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(folder: Path, name: str, expected: str, size: int) -> str | None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"The {MANIFEST} of {folder.name!r} names {name!r}, which is outside the folder."
    where = f"The weight file {name!r} of {folder.name!r}"
    try:
        if not path.is_file():
            return f"{where} is missing (expected sha256 {expected}); get the folder again."
        found, found_size = _sha256(path), path.stat().st_size
    except OSError as error:
        return f"{where} cannot be read: {error.strerror or error}."
    if found == expected:
        return None
    what = f"has {found_size:,} bytes instead of {size:,}" if found_size != size else "was changed"
    return f"{where} {what}: expected sha256 {expected}, found {found}; get the folder again."


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(write_manifest(Path(argument)))
