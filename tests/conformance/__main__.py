"""Compare this implementation with golden files: `python -m tests.conformance DIR [DIR ...]`.

Prints one row a file: name, largest error, tolerance, result. Exit code 0 only if everything passes.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from tests.conformance import golden as gold
from tests.conformance import trellis


def check(golden: gold.Golden) -> list[gold.Row]:
    """The rows of one file, whichever family it belongs to; empty for files that are not golden data."""
    try:
        rows = trellis.check(golden)
        if rows is None:
            from tests.conformance import gap3d

            rows = gap3d.check(golden)
    except ImportError as error:
        return [gold.Row("import", float("inf"), 0.0, f"needs {error.name}: {error}")]
    except Exception as error:  # a broken file must not hide the others
        traceback.print_exc(file=sys.stderr)
        return [gold.Row("run", float("inf"), 0.0, f"{type(error).__name__}: {error}")]
    if rows is None:
        return [gold.Row("file", float("inf"), 0.0, "unknown kind of golden file")]
    return rows


def main(arguments: list[str]) -> int:
    """Check the folders and print the table."""
    folders = [Path(argument) for argument in arguments]
    missing = [str(folder) for folder in folders if not folder.exists()]
    if not folders or missing:
        print(__doc__ if not folders else f"no such folder: {', '.join(missing)}", file=sys.stderr)
        return 2
    files = gold.golden_files(folders)
    if not files:
        print("no golden files found", file=sys.stderr)
        return 2
    failed = 0
    print(f"{'file':44} {'output':28} {'error':>9} {'tolerance':>9}  result")
    for path in files:
        with torch.no_grad():
            rows = check(gold.read(path))
        row = gold.worst(rows)
        result = "pass" if row.passed else "FAIL"
        failed += not row.passed
        note = f"  {row.note}" if row.note else ""
        label = f"{path.parent.name}/{path.stem}"
        numbers = f"{row.error:9.2e} {row.tolerance:9.2e}"
        print(f"{label:44} {row.name[:28]:28} {numbers}  {result}{note}", flush=True)
    print(f"{len(files)} files, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
