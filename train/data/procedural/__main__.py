"""Command line: `python -m train.data.procedural --count N --out DIR [--seed S] [--split train|test]`."""

import argparse
import json
import sys
from pathlib import Path

from gap3d_app.errors import Gap3DError
from train.data.procedural.dataset import write_contact_sheet, write_dataset
from train.data.procedural.spec import sample_spec


def main() -> int:
    """Write the data set and its contact sheet; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(prog="python -m train.data.procedural", description=__doc__)
    parser.add_argument("--count", type=int, required=True, help="number of assets")
    parser.add_argument("--out", type=Path, required=True, help="folder for raw/, metadata.csv and the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--sheet", type=int, default=64, help="assets on the contact sheet; 0 for none")
    args = parser.parse_args()
    try:
        rows = write_dataset(args.out, args.count, args.seed, args.split)
    except Gap3DError as error:
        print(error, file=sys.stderr)
        return 2
    shown = min(args.sheet, len(rows))
    if shown:
        specs = [sample_spec(args.seed, i, args.split) for i in range(shown)]
        labels = [json.loads(row["captions"])[len(json.loads(row["captions"])) // 2] for row in rows[:shown]]
        write_contact_sheet(args.out / "contact_sheet.png", specs, labels)
    print(f"{len(rows)} assets in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
