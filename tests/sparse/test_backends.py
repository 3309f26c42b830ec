"""Backends of the sparse convolution against the native one: the Triton kernel and spconv; the fused norm likewise."""

import functools
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.models.decoders import SparseSubdivideBlock3d
from gap3d_app.nn.device_clock import milliseconds
from gap3d_app.sparse.conv import (
    Backend,
    NativeBackend,
    SparseConv3d,
    SpconvBackend,
    TritonBackend,
    default_backend,
    neighbour_map,
    row_gather,
)
from gap3d_app.sparse.norms import SparseGroupNorm32, SparseSiLU, norm_silu
from gap3d_app.sparse.resample import (
    SparseDownsample,
    SparseSubdivide,
    SparseUpsample,
    _near_parents,
    subdivide_conv,
    unpooled_conv,
)
from gap3d_app.sparse.tensor import SparseTensor
from tests.sparse.shells import shell

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
HALF = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest relative L2 distance between two roundings of one result."""


def relative(there: torch.Tensor, here: torch.Tensor) -> float:
    return ((there.double() - here.double()).norm() / here.double().norm()).item()


def two_shells(channels: int, dtype: torch.dtype, device: str = "cuda", voxels: int = 3000) -> SparseTensor:
    """A batch of two shells, the second smaller."""
    torch.manual_seed(0)
    first, second = shell(voxels), shell(voxels // 2 + 7)
    second[:, 0] = 1
    coords = torch.cat([first, second]).to(device)
    return SparseTensor(torch.randn(len(coords), channels, device=device).to(dtype), coords)


def layer_pair(
    channels: int, outputs: int, other: Backend, dtype: torch.dtype, device: str = "cuda"
) -> tuple[SparseConv3d, SparseConv3d]:
    torch.manual_seed(1)
    native = SparseConv3d(channels, outputs, backend=NativeBackend()).to(device, dtype)
    twin = SparseConv3d(channels, outputs, backend=other).to(device, dtype)
    twin.load_state_dict(native.state_dict())
    return native, twin


def spconv_backend() -> SpconvBackend:
    pytest.importorskip("spconv.pytorch", reason="spconv is not installed")
    return SpconvBackend()


def triton_backend() -> TritonBackend:
    pytest.importorskip("triton", reason="triton is not installed")
    return TritonBackend()


OTHERS = {"triton": triton_backend, "spconv": spconv_backend}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("channels", "outputs"), [(64, 64), (128, 1024), (768, 192), (96, 96), (32, 40), (1024, 128)])
@torch.no_grad()
def test_forward_on_cuda(name: str, dtype: torch.dtype, channels: int, outputs: int) -> None:
    if name == "spconv" and dtype == torch.bfloat16:
        pytest.skip("spconv has no kernels for bfloat16")
    native, twin = layer_pair(channels, outputs, OTHERS[name](), dtype)
    x = two_shells(channels, dtype)
    exact = native.float()(x.to(torch.float32)).feats
    native.to(dtype)
    out = twin(x).feats
    # spconv adds up in half precision, so that its error grows with the number of terms.
    most = 3e-4 * channels**0.5 if name == "spconv" else HALF[dtype]
    assert out.dtype == dtype and relative(out, exact) <= most
    assert relative(out, native(x).feats) <= 2 * most
    without = twin.backend(x, twin.conv.weight, None)
    assert relative(without.float() + twin.conv.bias.float(), exact) <= 2 * most


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_resampled_voxels_on_cuda(name: str) -> None:
    """Convolutions after subdividing and un-pooling, folded by the app, against the plain ones of each backend."""
    native, twin = layer_pair(64, 96, OTHERS[name](), torch.float16)
    x = two_shells(64, torch.float16)
    plain = twin(SparseSubdivide()(SparseTensor(x.feats, x.coords)))
    assert relative(plain.feats, native(SparseSubdivide()(x)).feats) <= 2 * HALF[torch.float16]
    for conv in (native, twin):
        folded = subdivide_conv(x, conv)
        assert torch.equal(folded.coords, plain.coords)
        assert relative(folded.feats, plain.feats) <= 2 * HALF[torch.float16]
    coarse = SparseDownsample()(x)
    plain = twin(SparseUpsample()(coarse))
    assert torch.equal(plain.coords, x.coords)
    assert relative(unpooled_conv(coarse, native).feats, plain.feats) <= 2 * HALF[torch.float16]


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_one_kernel_for_any_number_of_rows() -> None:
    """Odd numbers and those that 16 divides: nobody waits for a compiler because an asset has a voxel more."""
    kernel = kernel_module("gap3d_app.sparse.triton_conv", triton_fits)
    if kernel is None:
        pytest.skip("Triton does not run here")
    tile, weight = kernel.TILES[-1], torch.randn(64, 27, 32, device="cuda", dtype=torch.float16)

    def launched(rows: int) -> object:
        neighbours = torch.randint(rows + 1, (rows, 27), device="cuda", dtype=torch.int32)
        plan = kernel.TapPlan(neighbours, block=tile.rows)
        kernel._launch.found.clear()
        kernel.launch(tile, weight.new_ones(rows, 32), weight, plan, None, weight.new_empty(rows, 64))
        return kernel._launch.found.popitem()[1]

    kernels = {id(launched(rows)) for rows in (512, 501, 500, 1)}
    assert len(kernels) == 1


@pytest.mark.gpu
@needs_cuda
def test_triton_leaves_the_rest_to_torch() -> None:
    """Gradients, float32, odd channels and no voxels at all go to the native backend; autocast counts as half."""
    native, twin = layer_pair(32, 64, triton_backend(), torch.float32)
    x = two_shells(32, torch.float32)
    out = twin(x.replace(x.feats.requires_grad_()))
    out.feats.square().sum().backward()
    assert x.feats.grad.isfinite().all() and twin.conv.weight.grad.isfinite().all()
    with torch.no_grad():
        assert torch.equal(out.feats, native(x).feats)
        with torch.autocast("cuda", torch.float16):
            half = twin(x).feats
        assert half.dtype == torch.float16 and relative(half, out.feats) <= HALF[torch.float16]
        odd, odd_twin = layer_pair(20, 64, triton_backend(), torch.float16)
        y = two_shells(20, torch.float16)
        assert torch.equal(odd(y).feats, odd_twin(y).feats)
        none = SparseTensor(x.feats[:0].half(), x.coords[:0])
        assert twin.half()(none).feats.shape == (0, 64)


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_every_tile_gives_the_same() -> None:
    """Whatever tile is measured fastest, the result is right, inside a CUDA graph too."""
    kernel = triton_backend().kernel
    for channels, outputs in ((64, 200), (96, 96)):
        native, twin = layer_pair(channels, outputs, triton_backend(), torch.float16)
        x = two_shells(channels, torch.float16)
        wanted = native(x).feats
        taps = twin.conv.weight.flatten(1, 3)
        plans = {block: kernel.TapPlan(neighbour_map(x.sites), block=block) for block in (64, 128)}
        tried = [tile for tile in kernel.TILES if channels % tile.channels == 0]
        assert {tile.rows for tile in tried} == set(plans)
        for tile in tried:
            out = torch.full_like(wanted, float("nan"))
            run = functools.partial(kernel.launch, tile, x.feats, taps, plans[tile.rows], twin.conv.bias, out)
            if milliseconds([run])[0] < float("inf"):
                assert relative(out, wanted) <= 2 * HALF[torch.float16], tile
        twin(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = twin(x).feats
        graph.replay()
        assert relative(captured, wanted) <= 2 * HALF[torch.float16]


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_the_faster_of_kernel_and_torch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = triton_backend().kernel
    native, twin = layer_pair(64, 64, triton_backend(), torch.float16)
    x = two_shells(64, torch.float16)
    monkeypatch.setattr(kernel, "_chosen", {})
    monkeypatch.setattr(kernel, "milliseconds", lambda runs: [*[2.0] * (len(runs) - 1), 1.0])  # torch comes last
    assert torch.equal(twin(x).feats, native(x).feats)
    assert list(kernel._chosen.values()) == [None]
    monkeypatch.setattr(kernel, "_chosen", {})
    monkeypatch.setattr(kernel, "milliseconds", lambda runs: [*[1.0] * (len(runs) - 1), 2.0])
    assert relative(twin(x).feats, native(x).feats) <= 2 * HALF[torch.float16]
    assert None not in kernel._chosen.values()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("rows", [1_293_824, 161_728, 20_216, 1001, 1, 0])
@torch.no_grad()
def test_plan_on_cuda(rows: int) -> None:
    """Order, map and lists are those of the twin in plain torch, bit for bit."""
    pytest.importorskip("triton", reason="triton is not installed")
    from tests.sparse.plans import check_plan, random_map

    torch.manual_seed(4)
    for absent, kinds in ((0.7, 300), (0.4, 100_000)):
        check_plan(random_map(rows, 27, absent, kinds, "cuda"))
        if rows < 1_000_000:
            check_plan(random_map(rows, 27, absent, kinds, "cuda"), _near_parents(torch.device("cuda")))


def norm_layers(channels: int, device: str = "cpu") -> nn.Sequential:
    """Group norm, awake, and SiLU."""
    torch.manual_seed(2)
    norm = SparseGroupNorm32(32, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(norm, SparseSiLU()).to(device)


def one_set(feats: torch.Tensor) -> SparseTensor:
    """Features [T, C] on voxels of one batch element; which ones does not matter to a norm."""
    return SparseTensor(feats, torch.zeros(len(feats), 4, dtype=torch.int32, device=feats.device))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize(("rows", "channels"), [(300_001, 96), (161_728, 192), (20_216, 768), (3, 96), (1000, 160)])
@torch.no_grad()
def test_fused_norm_on_cuda(rows: int, channels: int, dtype: torch.dtype) -> None:
    """Against float64, far from a mean of zero too; the same bits every time."""
    pytest.importorskip("triton", reason="triton is not installed")
    layers = norm_layers(channels, "cuda")
    norm = layers[0]
    for mean in (0.0, 50.0):
        around = mean + torch.randn(channels, device="cuda")
        x = one_set((around + 0.5 * torch.randn(rows, channels, device="cuda")).to(dtype))
        out = norm_silu(layers, x).feats
        columns = x.feats.double().t()[None]
        exact = F.silu(F.group_norm(columns, 32, norm.weight.double(), norm.bias.double()))[0].t()
        assert out.dtype == dtype and relative(out, exact) <= HALF.get(dtype, 3e-5)
        assert relative(layers(x).feats, out) <= 2 * HALF.get(dtype, 3e-5)
        assert torch.equal(norm_silu(layers, x).feats, out)


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_fused_norm_past_32_bits() -> None:
    """Copies of the same rows have their statistics, however many there are."""
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    layers, part = norm_layers(96, "cuda"), torch.randn(4096, 96, device="cuda").half()
    wanted = layers(one_set(part)).feats
    out = norm_silu(layers, one_set(part.repeat((1 << 31) // part.numel() + 2, 1))).feats
    for rows in (out[:4096], out[-4096:]):
        assert relative(rows, wanted) <= 2 * HALF[torch.float16]


@pytest.mark.gpu
@needs_cuda
def test_fused_norm_leaves_the_rest_to_torch() -> None:
    """Gradients, several batch elements and no voxels at all."""
    layers, x = norm_layers(64, "cuda"), two_shells(64, torch.float16)
    norm_silu(layers, one_set(x.feats)).feats.float().sum().backward()
    assert layers[0].weight.grad.isfinite().all()
    with torch.no_grad():
        assert torch.equal(norm_silu(layers, x).feats, layers(x).feats)
        assert norm_silu(layers, one_set(x.feats[:0])).feats.shape == (0, 64)


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_subdivision_block_on_cuda() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    torch.manual_seed(3)
    block, coords = SparseSubdivideBlock3d(64, 96), shell(3000).cuda()
    nn.init.normal_(block.out_layers[3].conv.weight, std=0.02)
    x = SparseTensor(torch.randn(len(coords), 64, device="cuda"), coords)
    block.cuda().act_layers[0].fused = block.out_layers[1].fused = False
    exact = block(x).feats
    for conv in (block.out_layers[0], block.out_layers[3], block.skip_connection):
        conv.half()
    block.act_layers[0].fused = block.out_layers[1].fused = True
    assert relative(block(x.to(torch.float16)).feats, exact) <= 2 * HALF[torch.float16]


@pytest.mark.parametrize("lengths", [[23], [9, 9], [20, 3]])
def test_subdivision_block_on_the_cpu(lengths: list[int]) -> None:
    """What the layers give one after the other, for each batch element; under the public names."""
    torch.manual_seed(3)
    block = SparseSubdivideBlock3d(32, 64)
    nn.init.normal_(block.out_layers[3].conv.weight, std=0.02)
    assert {name for name in block.state_dict() if "conv." not in name} == {
        "act_layers.0.weight", "act_layers.0.bias", "out_layers.1.weight", "out_layers.1.bias",
    }  # fmt: skip
    x = SparseTensor.batched([SparseTensor(torch.randn(n, 32), shell(n)) for n in lengths])
    out, divide = block(x), SparseSubdivide()
    for i in range(len(lengths)):
        h = block.out_layers(divide(block.act_layers(x[i])))
        h = h.feats + block.skip_connection(divide(x[i])).feats
        torch.testing.assert_close(out[i].feats, h, rtol=1e-4, atol=1e-5)


def test_default_backend_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is not chosen where its first launch would fail."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert isinstance(default_backend(), NativeBackend)
    assert not SparseGroupNorm32(2, 4).fused


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_default_backend_on_the_cpu() -> None:
    assert isinstance(SparseConv3d(4, 4).backend, NativeBackend)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("channels", [8, 32, 200])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_by_number_on_cuda(channels: int, dtype: torch.dtype) -> None:
    """Zeros for the number after the last row; and a convolution's gradients, which gather rows."""
    x = torch.randn(1000, channels, device="cuda", dtype=dtype)
    index = torch.randint(1001, (27 * 700,), device="cuda", dtype=torch.int32)
    padded = torch.cat([x, torch.zeros_like(x[:1])])
    out = torch.full((len(index), channels), float("nan"), device="cuda", dtype=dtype)
    assert torch.equal(row_gather(x)(index), padded[index.long()])
    assert torch.equal(row_gather(x)(index, out=out), padded[index.long()])
    there = two_shells(channels, torch.float32)
    layers = layer_pair(channels, 16, NativeBackend(), torch.float64)
    layers[1].float().cpu()
    grads = []
    for layer, x in zip(layers, (there.to(torch.float64), there.to("cpu")), strict=True):
        feats = x.feats.requires_grad_()
        layer(x.replace(feats)).feats.sin().sum().backward()
        grads.append((feats.grad.cpu(), layer.conv.weight.grad.cpu()))
    assert all(relative(b, a) < 1e-5 for a, b in zip(*grads, strict=True))


@pytest.mark.gpu
@needs_cuda
def test_default_backend_on_cuda() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    assert isinstance(SparseConv3d(4, 4).backend, TritonBackend)


def test_triton_interpreted_on_the_cpu() -> None:
    """The kernel's arithmetic without a GPU; the interpreter is chosen when triton loads, hence the process."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (a CPU machine does not need it)")
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("triton's interpreter reads loop bounds in a way that numpy 2.4 and newer refuse")
    done = subprocess.run([sys.executable, "-m", "tests.sparse.interpreted"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "equal"
