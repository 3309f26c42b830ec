"""Write procedural assets as a data set: raw/<sha256>.glb, metadata.csv and contact_sheet.png.

The columns begin with those of TRELLIS's metadata.csv (spec/trellis 10), then come the asset's attributes. A
run that was stopped goes on where it was: records.jsonl holds one line per finished asset.
"""

import csv
import hashlib
import json
import os
from pathlib import Path

from gap3d_app.errors import InputError, OutputError
from train.data.procedural.captions import captions
from train.data.procedural.glb_file import glb_bytes
from train.data.procedural.spec import AssetSpec, assemble, build, sample_spec

TRELLIS_COLUMNS = ("sha256", "file_identifier", "aesthetic_score", "captions", "local_path")
COLUMNS = (*TRELLIS_COLUMNS, "category", "color", "secondary", "finish", "size", "style", "kind", "parts", "seed",
           "split", "vertices", "faces")


def write_asset(spec: AssetSpec, folder: Path, index: int, split: str) -> dict:
    """Write one GLB under `folder`/raw and return its metadata row (captions and parts as JSON lists)."""
    a = assemble(spec)
    data = glb_bytes(a.vertices, a.faces, a.colors, {"spec": spec.to_dict()})
    digest = hashlib.sha256(data).hexdigest()
    path = folder / "raw" / f"{digest}.glb"
    part = path.with_suffix(".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"Asset {index} cannot be written to {path}: {error.strerror}; free space or choose "
                          "another --out.") from error
    row = {"sha256": digest, "file_identifier": f"procedural/{split}/{index:07d}", "aesthetic_score": 6.0,
           "captions": json.dumps(captions(spec)), "local_path": f"raw/{digest}.glb", "split": split,
           "vertices": len(a.vertices), "faces": len(a.faces)}
    return row | spec.to_dict() | {"parts": json.dumps(list(spec.parts))}


def _read_records(path: Path, start: dict) -> dict[int, dict]:
    """Rows of a run that was stopped; a cut last line is dropped. Raises InputError for another seed."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    if lines and json.loads(lines[0]) != start:
        raise InputError(f"{path.parent} holds a data set with {lines[0]}, not {json.dumps(start)}; choose another "
                         "--out or the same --seed and --split.")
    found = {}
    for line in lines[1:]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["index"]] = record["row"]
    return found


def write_dataset(folder: Path, count: int, seed: int = 0, split: str = "train", progress: bool = True) -> list[dict]:
    """Write assets 0..count-1 of (seed, split) and metadata.csv; assets already there are kept.

    Returns the rows in order. Raises InputError for a count below 1 or a folder of another seed or split.
    """
    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1.")
    from tqdm import tqdm

    try:
        (folder / "raw").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}; choose another --out.") from error
    start = {"seed": seed, "split": split}
    records = folder / "records.jsonl"
    rows = _read_records(records, start)
    rows = {i: row for i, row in rows.items() if (folder / row["local_path"]).exists()}
    with records.open("w") as log:  # rewritten, so that a cut line does not stay
        log.write(json.dumps(start) + "\n")
        log.writelines(json.dumps({"index": i, "row": row}) + "\n" for i, row in rows.items())
        for index in tqdm(range(count), desc="assets", disable=not progress):
            if index not in rows:
                rows[index] = write_asset(sample_spec(seed, index, split), folder, index, split)
                log.write(json.dumps({"index": index, "row": rows[index]}) + "\n")
                log.flush()
    table = [rows[i] for i in sorted(rows)]
    part = folder / "metadata.csv.part"
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    os.replace(part, folder / "metadata.csv")
    return table


def write_contact_sheet(path: Path, specs: list[AssetSpec], labels: list[str], size: int = 160) -> None:
    """A picture of the assets, each seen from its front left, a little from above."""
    import math

    from gap3d_app.geometry.cameras import orbit_camera
    from gap3d_app.render.mesh import render_mesh
    from gap3d_app.render.pictures import contact_sheet, to_image

    extrinsics, intrinsics = orbit_camera(math.pi - 0.6, 0.35, 2.0, 40.0)
    images = []
    for spec in specs:
        picture = render_mesh(build(spec), extrinsics[None], intrinsics[None], size, background=(1, 1, 1), ssaa=2)
        images.append(to_image(picture[0]))
    contact_sheet(images, labels, columns=8, cell=size).save(path)
