"""Model files: round trip, shards, and what damaged ones say."""

import json
from pathlib import Path

import pytest
import torch

from gap3d_app.errors import WeightsError
from gap3d_app.models.checkpoint import load_model, read_config, save_model, weight_files
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.models.structure_flow import SparseStructureFlowModel
from gap3d_app.sparse.tensor import SparseTensor

ARGS = dict(
    resolution=4, in_channels=4, out_channels=4, model_channels=48, cond_channels=16, num_blocks=2,
    num_heads=4, patch_size=1, qk_rms_norm=True, share_mod=True,
)  # fmt: skip


@pytest.fixture
def model() -> SparseStructureFlowModel:
    torch.manual_seed(0)
    model = SparseStructureFlowModel.from_args(**ARGS)
    torch.nn.init.normal_(model.out_layer.weight)
    return model.eval()


def run(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, 4, 4, 4, generator=generator)
    cond = torch.randn(1, 3, 16, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([500.0]), cond)


@pytest.mark.parametrize("limit", [50_000_000, 60_000])
def test_round_trip(model: SparseStructureFlowModel, tmp_path: Path, limit: int) -> None:
    files = save_model(model, tmp_path / "flow", max_shard_bytes=limit)
    assert all(file.is_file() for file in files)
    shards = weight_files(tmp_path / "flow")
    assert (len(shards) == 1) == (limit > 1_000_000)
    largest_entry = max(value.nbytes for value in model.state_dict().values())
    assert all(file.stat().st_size <= max(limit, largest_entry + 10_000) for file in shards)
    loaded = load_model(tmp_path / "flow")
    assert torch.equal(run(loaded), run(model))
    assert not any(parameter.is_meta for parameter in loaded.parameters())


def test_saving_again_leaves_no_old_shards(model: SparseStructureFlowModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "flow", max_shard_bytes=60_000)
    save_model(model, tmp_path / "flow")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["flow.json", "flow.safetensors"]


def test_half_precision_storage_and_torso(model: SparseStructureFlowModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "flow", dtype=torch.float16)
    assert (tmp_path / "flow.safetensors").stat().st_size < 0.6 * sum(
        p.nbytes for p in model.state_dict().values()
    )
    back = load_model(tmp_path / "flow")
    assert all(p.dtype == torch.float32 for p in back.parameters())
    assert (run(back) - run(model)).abs().max() < 2e-2 * run(model).std()
    half = load_model(tmp_path / "flow", dtype=torch.bfloat16)
    assert half.blocks[0].mlp.mlp[0].weight.dtype == torch.bfloat16
    assert half.blocks[0].norm2.weight.dtype == half.out_layer.weight.dtype == torch.float32
    assert run(half).dtype == torch.float32
    assert (run(half) - run(model)).abs().max() < 0.2 * run(model).std()


def test_damaged_and_missing_files_are_named(model: SparseStructureFlowModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"flow\.json"):
        load_model(tmp_path / "flow")
    save_model(model, tmp_path / "flow")
    weights = tmp_path / "flow.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"flow\.safetensors"):
        load_model(tmp_path / "flow")
    weights.unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_model(tmp_path / "flow")


def test_wrong_shapes_and_arguments_are_refused(model: SparseStructureFlowModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "flow")
    config = tmp_path / "flow.json"
    content = json.loads(config.read_text())
    content["args"]["model_channels"] = 96
    config.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"another shape for '[\w.]+' \(expected \[.*96.*\], found \[.*48.*\]\)"):
        load_model(tmp_path / "flow")
    content["args"]["wings"] = 2
    config.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="wings"):
        load_model(tmp_path / "flow")
    config.write_text(json.dumps({"name": "Nothing", "args": {}}))
    with pytest.raises(WeightsError, match="Nothing"):
        load_model(tmp_path / "flow")
    assert read_config(tmp_path / "flow") == ("Nothing", {})


def test_shared_modulation_works_with_residual_blocks() -> None:
    torch.manual_seed(0)
    args = {**ARGS, "resolution": 8, "patch_size": 2, "io_block_channels": [16]}
    model = SLatFlowModel.from_args(**args)
    assert not any("blocks.0.adaLN" in key for key in model.state_dict() if key.startswith("blocks"))
    torch.nn.init.normal_(model.out_layer.weight)
    coords = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [1, 0, 0, 0]], dtype=torch.int32)
    x = SparseTensor(torch.randn(3, 4), coords)
    out = model(x, torch.tensor([500.0, 10.0]), torch.randn(2, 3, 16))
    out.feats.square().mean().backward()
    assert out.feats.shape == (3, 4)
    gradients = [p.grad for name, p in model.named_parameters() if name.startswith("input_blocks.0.emb")]
    assert gradients and all(g is not None for g in gradients)


def test_int8_matrices_come_back_within_half_a_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SparseStructureFlowModel.from_args(**(ARGS | {"model_channels": 96})).eval()
    torch.nn.init.normal_(model.out_layer.weight)
    save_model(model, tmp_path / "narrow", dtype=torch.bfloat16)
    save_model(model, tmp_path / "int8", dtype=torch.bfloat16, int8=True)
    loaded = load_model(tmp_path / "int8")
    original, back = model.state_dict(), loaded.state_dict()
    matrix = original["blocks.0.mlp.mlp.0.weight"]
    step = matrix.abs().amax(1, keepdim=True) / 127
    assert ((back["blocks.0.mlp.mlp.0.weight"] - matrix).abs() <= 0.51 * step).all()
    assert back["blocks.0.mlp.mlp.0.weight"].dtype == torch.float32
    assert (run(loaded) - run(model)).norm() < 0.03 * run(model).norm()
    sizes = [sum(f.stat().st_size for f in weight_files(tmp_path / name)) for name in ("int8", "narrow")]
    assert sizes[0] < 0.7 * sizes[1]
