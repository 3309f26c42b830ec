"""Put the trained parts together as a weights folder that the app loads.

    python -m train.export --runs runs --out weights/gap3d-mini

Networks are stored in bfloat16, the three samplers' large matrices as int8 with a scale a row, cut into shards under
10 MB; a manifest lists every file's sha256. Sampler
settings come from train/configs/mini/pipeline.yaml.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import yaml

from gap3d_app import hub
from gap3d_app.models.checkpoint import load_model, save_model
from train.data.procedural.words import taught_words

PARTS = {
    "prompt_encoder": "grid_alignment",
    "grid_dit": "grid_alignment",
    "image_encoder": "image_encoder",
    "structure_flow": "structure_tuning",
    "structure_encoder": "structure_vae",
    "structure_decoder": "structure_vae",
    "slat_flow": "slat_tuning",
    "slat_encoder": "slat_vae",
    "slat_decoder_gs": "slat_vae",
    "slat_decoder_mesh": "slat_vae",
}
"""Role in the pipeline -> the run that trained it."""

INT8 = ("grid_dit", "structure_flow", "slat_flow")
"""Roles whose large matrices are stored as int8."""

SERVED = [role for role in PARTS if role not in ("structure_encoder", "slat_encoder")]
"""Roles that the app loads; the encoders are there for training and evaluation."""


def export(runs: Path, out: Path, settings: Path) -> None:
    """Write the weights folder; files that other steps put there (card, pictures) are kept.

    What was there is replaced when all of the new is ready.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        made = Path(folder)
        _write(runs, made, settings)
        for old in {*out.glob("*.safetensors*"), *out.glob("*.json")}:
            old.unlink()
        for file in made.iterdir():
            file.replace(out / file.name)
    total = sum(f.stat().st_size for f in out.iterdir())
    print(f"{out}: {total / 1e6:.1f} MB in {len(list(out.iterdir()))} files")


def _write(runs: Path, out: Path, settings: Path) -> None:
    for role, run in PARTS.items():
        model = load_model(runs / run / "model" / role)
        save_model(model, out / role, dtype=torch.bfloat16, int8=role in INT8)
    shutil.copy(runs / "language_model" / "model" / "tokenizer.json", out / "tokenizer.json")
    for suffix in (".json", ".safetensors"):
        shutil.copy(runs / "probe" / "model" / f"probe{suffix}", out / f"probe{suffix}")
    normalization = json.loads((runs / "slat_tuning" / "model" / "slat_normalization.json").read_text())
    args = {
        "models": {role: role for role in SERVED},
        "tokenizer": "tokenizer.json",
        **yaml.safe_load(settings.read_text()),
        "vocabulary": taught_words(),
        "slat_normalization": normalization,
    }
    text = json.dumps({"name": "Gap3DPipeline", "args": args}, indent=2) + "\n"
    (out / hub.PIPELINE).write_text(text)
    hub.write_manifest(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("weights/gap3d-mini"))
    parser.add_argument("--settings", type=Path, default=Path("train/configs/mini/pipeline.yaml"))
    args = parser.parse_args()
    export(args.runs, args.out, args.settings)


if __name__ == "__main__":
    main()
