"""The data folder's layout, with TRELLIS's names and columns (spec/trellis 9.1, 9.2).

    metadata.csv                          one row per asset; captions as a JSON list, what has been made, and all that
                                          the source says (local_path is a path in the source folder)
    renders_cond/<sha256>/000.png ...     views, with transforms.json (cameras) and depth.npz
    voxels/<sha256>.ply                   centres of the active voxels
    surfaces/<sha256>.npz                 distances and colours on their lattices (read by gap3d-mini's encoder)
    features/<model>/<sha256>.npz         patchtokens float16 [n, C], indices uint8 [n, 3]
    ss_latents/<model>/<sha256>.npz       mean [C, r, r, r]
    latents/<model>/<sha256>.npz          feats float32 [n, 8], coords uint8 [n, 3]

Every file appears whole or not at all. Each process writes what it made to `<step>_<rank>.csv`;
`merge_metadata` brings these records into metadata.csv.
"""

import csv
import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from gap3d_app.errors import InputError
from gap3d_app.output import write_atomic

FIRST_COLUMNS = ("sha256", "file_identifier", "aesthetic_score", "captions", "local_path", "cond_rendered", "voxelized",
                 "num_voxels")


@dataclass(frozen=True)
class SourceAsset:
    """One row of a source folder: the GLB's path, its captions (maybe none) and the whole row."""

    sha256: str
    name: str
    path: Path
    captions: tuple[str, ...]
    row: dict[str, str] = field(hash=False)


def read_assets(folder: Path) -> list[SourceAsset]:
    """Assets of a folder of GLBs with a metadata.csv, in the file's order.

    Paths come from the column local_path or file, else raw/<sha256>.glb; captions from `captions` (a JSON list, or
    phrases between bars) and `caption`. A missing sha256 is computed from the file.

    Raises:
        InputError: there is no metadata.csv, or a row says neither where its file is nor its sha256.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} has no metadata.csv; give a folder of GLBs with one.")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [_source_asset(folder, row, number) for number, row in enumerate(rows, 2)]


def _source_asset(folder: Path, row: dict[str, str], line: int) -> SourceAsset:
    digest = row.get("sha256") or ""
    local = row.get("local_path") or row.get("file") or (f"raw/{digest}.glb" if digest else "")
    if not local:
        raise InputError(f"{folder / 'metadata.csv'}, line {line}, has no local_path, file or sha256; add one of them.")
    path = folder / local
    if not digest:
        digest = hashlib.sha256(path.read_bytes() if path.is_file() else local.encode()).hexdigest()
    text = row.get("captions") or ""
    try:
        captions = json.loads(text) if text.startswith("[") else text.split("|")
    except ValueError as error:
        raise InputError(
            f"{folder / 'metadata.csv'}, line {line}, has captions that begin with '[' and are no JSON list: {error}; "
            "write a list, or captions with | between them."
        ) from None
    captions = [row.get("caption") or "", *captions]
    captions = tuple(dict.fromkeys(c.strip() for c in captions if c and c.strip()))
    return SourceAsset(digest, local, path, captions, row)


def share(items: list, rank: int, world_size: int) -> list:
    """The contiguous part of `items` that process `rank` of `world_size` works on."""
    if not 0 <= rank < world_size:
        raise InputError(f"--rank is {rank}; it must be from 0 to --world_size - 1, which is {world_size - 1}.")
    return items[len(items) * rank // world_size : len(items) * (rank + 1) // world_size]


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a compressed npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda part: np.savez_compressed(part, **arrays))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an npz; object arrays are refused."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def save_voxels(path: Path, coords: np.ndarray, resolution: int) -> None:
    """Write voxel coordinates [V, 3] as a binary PLY of their centres `(i + 0.5) / resolution - 0.5`."""
    centres = ((coords + 0.5) / resolution - 0.5).astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"comment resolution {resolution}",
              f"element vertex {len(centres)}", *(f"property float {axis}" for axis in "xyz"), "end_header", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(header).encode() + centres.tobytes())


def load_voxels(path: Path) -> tuple[np.ndarray, int]:
    """Voxel coordinates [V, 3] int64 of a PLY of `save_voxels`, and their resolution."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    words = header.decode().split()
    resolution = int(words[words.index("resolution") + 1])
    centres = np.frombuffer(body, dtype="<f4").reshape(-1, 3)
    return np.rint((centres + 0.5) * resolution - 0.5).astype(np.int64), resolution


def count_voxels(path: Path) -> int:
    """Number of voxels of a PLY, from its header."""
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b"element vertex"):
                return int(line.split()[2])
    return 0


def write_records(out: Path, step: str, rank: int, rows: list[dict]) -> None:
    """Write `<step>_<rank>.csv`: what this process has made or found."""
    if rows:
        write_atomic(out / f"{step}_{rank}.csv", _csv_bytes(rows, list(rows[0])))


def merge_metadata(out: Path, assets: list[SourceAsset]) -> list[dict]:
    """Bring the records of all processes into out/metadata.csv and move them to merged_records/.

    The rows are those of `assets`, in order, with all their columns; what an earlier merge knew stays.
    """
    rows = {}
    for asset in assets:
        row = {k: v for k, v in asset.row.items() if k not in ("file", "caption")}
        row |= {"sha256": asset.sha256, "local_path": asset.name, "captions": json.dumps(list(asset.captions))}
        rows[asset.sha256] = {"file_identifier": asset.name, "aesthetic_score": ""} | row
    made: set[str] = set()
    records = sorted(p for p in out.glob("*_*.csv") if p.stem.rpartition("_")[2].isdigit())
    earlier = out / "metadata.csv"
    for path in [*([earlier] if earlier.exists() else []), *records]:
        with path.open(newline="") as file:
            for entry in csv.DictReader(file):
                known = rows.get(entry.pop("sha256", ""))
                if known is not None:
                    news = {k: v for k, v in entry.items() if path in records or k not in known}
                    known.update(news)
                    made.update(news)
    first = [*FIRST_COLUMNS, *sorted(made - set(FIRST_COLUMNS))]
    others = dict.fromkeys(k for row in rows.values() for k in row if k not in first)
    write_atomic(earlier, _csv_bytes(list(rows.values()), [*first, *others]))
    if records:
        (out / "merged_records").mkdir(exist_ok=True)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        for path in records:
            os.replace(path, out / "merged_records" / f"{stamp}_{path.name}")
    return list(rows.values())


def _csv_bytes(rows: list[dict], columns: list[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
