"""Streamed loading: the right numbers, refusals that name the key, little host memory, all published key lists."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gap3d_app.errors import WeightsError
from gap3d_app.models.checkpoint import build_model, read_config
from gap3d_app.models.clip_text import TextEncoder, TextEncoderConfig
from gap3d_app.models.gap3d_checkpoint import split_checkpoint
from gap3d_app.models.grid_dit import GridDiT, GridDiTConfig
from gap3d_app.models.image_encoder import from_torch_hub
from gap3d_app.models.streaming import (
    Piece,
    StoredTensor,
    checkpoint_files,
    joined,
    load_streamed,
    require_fit,
    stored_tensors,
)
from tests.sources.published import newer_name, write_shards

REPO = Path(__file__).resolve().parents[2]


class Layers(nn.Module):
    """Matrices and a buffer, which the state dict holds too."""

    def __init__(self, count: int = 3, width: int = 6):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.register_buffer("steps", torch.arange(4))


def listed(shapes: dict[str, list[int]]) -> dict[str, StoredTensor]:
    """Tensors of no file, for comparing names and shapes."""
    return {key: StoredTensor(tuple(shape), ()) for key, shape in shapes.items()}


def fits(build, tensors: dict[str, StoredTensor], name: str) -> None:
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    require_fit(expected, tensors, name)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_numbers_and_dtypes(tmp_path, dtype):
    torch.manual_seed(0)
    model = Layers()
    write_shards(tmp_path, model.state_dict(), 3)
    loaded = load_streamed(Layers, stored_tensors(checkpoint_files(tmp_path)), "cpu", dtype)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        wanted = value.to(dtype) if dtype and value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[key], wanted) and loaded.state_dict()[key].dtype == wanted.dtype
    assert not loaded.training and not any(p.requires_grad or p.is_meta for p in loaded.parameters())


def test_parts_of_a_tensor(tmp_path):
    table, other = torch.arange(24.0).view(6, 4), -torch.ones(3, 4)
    save_file({"table": table}, tmp_path / "a.safetensors")
    save_file({"other": other}, tmp_path / "b.safetensors")
    stored = stored_tensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    second = stored["table"].chunk(2)[1]
    assert second.shape == (3, 4) and second.rows(1, 2).pieces[0].first == 4
    build = lambda: nn.Embedding(6, 4)  # noqa: E731
    both = joined([stored["table"].rows(0, 2), stored["other"].rows(1, 2), second])
    loaded = load_streamed(build, {"weight": both}, "cpu")
    assert torch.equal(loaded.weight, torch.cat([table[:2], other[1:2], table[3:]]))


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("layers.1.bias"), r"'made' lack 'layers.1.bias', expected with shape \[6\]"),
    (lambda s: s.update(extra=torch.zeros(2)), r"'made' have the unknown 'extra' with shape \[2\]"),
    (lambda s: s.update({"layers.0.weight": torch.zeros(6, 5)}),
     r"'made' have another shape for 'layers.0.weight': expected \[6, 6\], found \[6, 5\]"),
])
def test_refusals_name_the_key(tmp_path, change, words):
    state = Layers().state_dict()
    change(state)
    write_shards(tmp_path, state, 2)
    with pytest.raises(WeightsError, match=words):
        load_streamed(Layers, stored_tensors(checkpoint_files(tmp_path)), "cpu", name="made")


def test_files_of_a_folder(tmp_path):
    with pytest.raises(WeightsError, match="holds no safetensors"):
        checkpoint_files(tmp_path)
    write_shards(tmp_path, Layers().state_dict(), 2)
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "aside")
    with pytest.raises(WeightsError, match="'model-00002-of-00002.safetensors' of .* is missing"):
        checkpoint_files(tmp_path)
    (tmp_path / "aside").rename(tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="damaged"):
        checkpoint_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    two = tmp_path / "two"
    two.mkdir()
    (two / "a.safetensors").touch()
    assert checkpoint_files(two) == [two / "a.safetensors"]
    (two / "b.safetensors").touch()
    with pytest.raises(WeightsError, match="several safetensors files .a.safetensors, b.safetensors."):
        checkpoint_files(two)
    assert len(checkpoint_files(tmp_path)) == 2
    content = (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(content[:-4])
    with pytest.raises(WeightsError, match="'model-00001-of-00002.safetensors' cannot be read"):
        stored_tensors(checkpoint_files(tmp_path))


MEASURE = """
import sys, pathlib, torch
from torch import nn
from gap3d_app.models.streaming import checkpoint_files, load_streamed, stored_tensors

def kilobytes(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

folder, width, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
build = lambda: nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))
with torch.device("meta"):
    build()  # what the first use imports is not loading
torch.ones(4, dtype=torch.bfloat16).float()
before = kilobytes("VmRSS")
model = load_streamed(build, stored_tensors(checkpoint_files(folder)), "cpu", torch.float32)
own = sum(p.nbytes for p in model.parameters())
assert all(float(p[0, 0]) == i for i, p in enumerate(model.parameters()))
print((kilobytes("VmHWM") - before) * 1024 - own)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_peak_host_memory_is_a_shard(tmp_path):
    """Growth beyond the network itself (which is on the host here), in a process of its own."""
    width, count, shards = 1024, 40, 4
    state = {f"{i}.weight": torch.full((width, width), float(i), dtype=torch.bfloat16) for i in range(count)}
    write_shards(tmp_path, state, shards)
    largest = max(file.stat().st_size for file in checkpoint_files(tmp_path))
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(width), str(count)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    beyond = int(done.stdout)
    assert beyond <= 1.2 * largest, f"{beyond / largest:.2f} of the largest shard"


# The published key lists, full size, without memory.


def test_trellis_key_lists(shared_dir):
    lists = json.loads((shared_dir / "conformance" / "trellis_state_dicts.json").read_text())
    for name, entry in lists.items():
        tensors = listed({**entry["parameters"], **entry.get("buffers_in_state_dict", {})})
        fits(lambda entry=entry: build_model(entry["config_class"], entry["args"]), tensors, name)
    assert len(lists) == 14


def full_size(stem: str):
    name, args = read_config(REPO / "gap3d_app" / "models" / "configs" / stem)
    return lambda: build_model(name, args)


@pytest.mark.parametrize("layout", ["released", "newer names", "with copies", "wrapped"])
@pytest.mark.parametrize("ffn", [4864, 7168])
def test_gap3d_key_list(shared_dir, layout, ffn):
    content = json.loads((shared_dir / "conformance" / "gap3d_state_dict.json").read_text())
    shapes = {key: [ffn if n == 4864 else n for n in shape] for key, shape in content["keys"].items()}
    if layout == "newer names":
        shapes = {newer_name(key): shape for key, shape in shapes.items()}
    if layout == "with copies":
        shapes |= {key: value["shape"] for key, value in content["optional_keys"].items()}
    if layout == "wrapped":
        shapes = {"module." + key: shape for key, shape in shapes.items()}
    parts = split_checkpoint(with_pieces(shapes))
    config = GridDiTConfig.from_state_dict(parts["grid_dit"])
    assert config.ffn_dim == ffn and config.dim == 1792
    fits(lambda: GridDiT(config), parts["grid_dit"], "grid_dit")
    fits(full_size("qwen2_5_vl_3b"), parts["prompt_encoder"], "prompt_encoder")
    fits(full_size("dinov2_reg_large"), parts["image_encoder"], "image_encoder")


def with_pieces(shapes: dict[str, list[int]]) -> dict[str, StoredTensor]:
    """Like `listed`, but can be cut."""
    return {key: StoredTensor(tuple(shape), (Piece(Path("none"), key),)) for key, shape in shapes.items()}


def test_clip_text_size():
    with torch.device("meta"):
        model = TextEncoder(TextEncoderConfig())
    assert sum(p.numel() for p in model.parameters()) == 123_060_480  # the text tower of CLIP ViT-L/14


def test_dinov2_key_lists(shared_dir):
    content = json.loads((shared_dir / "conformance" / "dinov2_reg_state_dict.json").read_text())
    fits(full_size("dinov2_reg_large"), listed(content["keys"]), "transformers names")
    fits(full_size("dinov2_reg_large"), from_torch_hub(with_pieces(content["torch_hub_keys"])), "torch.hub names")
