"""Networks and operators against the golden files that are kept in the repository."""

from pathlib import Path

import pytest
import torch

from tests.conformance import golden as gold
from tests.conformance import trellis
from tests.conformance.__main__ import main

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def trellis_files() -> list[Path]:
    files = [path for path in gold.golden_files([FOLDER]) if path.suffix == ".safetensors"]
    return [path for path in files if "class" in gold.read(path).meta]


@pytest.mark.parametrize("path", trellis_files(), ids=lambda path: path.stem)
@torch.no_grad()
def test_outputs_agree_with_the_golden_file(path: Path) -> None:
    rows = trellis.check(gold.read(path))
    assert rows
    for row in rows:
        assert row.passed, f"{row.name}: {row.error} > {row.tolerance} {row.note}"


def test_every_golden_file_of_the_shared_folder(shared_dir: Path) -> None:
    assert main([str(shared_dir / "conformance" / "trellis")]) == 0


def test_a_wrong_number_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    source = FOLDER / "sparse_conv3d_k3.safetensors"
    golden = gold.read(source)
    golden.tensors["outputs.feats"][3, 2] += 1e-3
    with safe_open(source, framework="pt") as content:
        meta = content.metadata()
    save_file(golden.tensors, tmp_path / "changed.safetensors", metadata=meta)
    assert main([str(tmp_path)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
