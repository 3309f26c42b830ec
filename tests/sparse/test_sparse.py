"""Sparse operators: neighbour maps, convolution, resampling, attention sets, dense twins and gradients."""

import functools
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from gap3d_app.nn.attention import Segments
from gap3d_app.nn.embeddings import position_embedding
from gap3d_app.nn.transformer import rows_of_segments
from gap3d_app.sparse import conv as conv_module
from gap3d_app.sparse import resample
from gap3d_app.sparse.attention import SparseMultiHeadAttention
from gap3d_app.sparse.conv import SparseConv3d, SpconvBackend, gather_matmul, neighbour_map
from gap3d_app.sparse.resample import (
    SparseDownsample,
    SparseSubdivide,
    SparseUpsample,
    pooled_sites,
    subdivide_conv,
    subdivided_sites,
)
from gap3d_app.sparse.tensor import Sites, SparseTensor

gradcheck = functools.partial(torch.autograd.gradcheck, fast_mode=True)


def random_coords(counts: list[int], resolution: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for batch, count in enumerate(counts):
        cell = torch.randperm(resolution**3, generator=generator)[:count]
        axes = [cell // resolution**2, cell // resolution % resolution, cell % resolution]
        rows.append(torch.stack([torch.full_like(cell, batch), *axes], dim=1))
    return torch.cat(rows).int()


def dense_convolution(x: SparseTensor, layer: SparseConv3d, resolution: int) -> torch.Tensor:
    volume = x.feats.new_zeros(x.batch_size, resolution, resolution, resolution, x.feats.shape[1])
    where = x.coords.long().unbind(1)
    volume[where] = x.feats
    weight = layer.conv.weight.permute(0, 4, 1, 2, 3)
    out = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight, layer.conv.bias, padding=1)
    return out.permute(0, 2, 3, 4, 1)[where]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("chunk", [4 << 20, 1 << 12])
def test_convolution_equals_the_dense_one(monkeypatch: pytest.MonkeyPatch, table: bool, chunk: int) -> None:
    monkeypatch.setattr(conv_module, "CPU_CHUNK_BYTES", chunk)
    if not table:
        monkeypatch.setattr(conv_module, "DENSE_TABLE_CELLS", 0)
    torch.manual_seed(0)
    x = SparseTensor(torch.randn(500, 6).double(), random_coords([300, 200], 9))
    layer = SparseConv3d(6, 10).double()
    assert torch.allclose(layer(x).feats, dense_convolution(x, layer, 9), atol=1e-12)


def test_gradients() -> None:
    coords = random_coords([10, 6], 3)
    x = torch.randn(16, 3, dtype=torch.double, requires_grad=True)
    weight = torch.randn(27, 3, 2, dtype=torch.double, requires_grad=True)
    index = neighbour_map(Sites(coords))
    assert gradcheck(lambda a, w: gather_matmul(a, w, index, lambda: index.flip(1)), (x, weight))
    layer = SparseConv3d(3, 2).double()
    assert gradcheck(lambda a: subdivide_conv(SparseTensor(a, coords), layer).feats, (x,))
    down = SparseDownsample()
    assert gradcheck(lambda a: down(SparseTensor(a, coords)).feats, (x,))
    attend = SparseMultiHeadAttention(6, 2, attn_mode="windowed", window_size=2).double()
    wide = torch.randn(16, 6, dtype=torch.double, requires_grad=True)
    assert gradcheck(lambda a: attend(SparseTensor(a, coords)).feats, (wide,))


def test_subdivision_folded_into_the_convolution() -> None:
    torch.manual_seed(0)
    x = SparseTensor(torch.randn(90, 5).double(), random_coords([60, 30], 6))
    layer = SparseConv3d(5, 4).double()
    plain = layer(SparseSubdivide()(SparseTensor(x.feats, x.coords)))
    folded = subdivide_conv(x, layer)
    assert torch.equal(folded.coords, plain.coords)
    assert torch.allclose(folded.feats, plain.feats, atol=1e-12)


@pytest.mark.parametrize("budget", [1, 16 << 20])
@torch.no_grad()
def test_subdivision_by_products(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(resample, "PRODUCT_BYTES", budget)
    torch.manual_seed(0)
    x = SparseTensor(torch.randn(90, 5).double(), random_coords([60, 30], 6))
    layer = SparseConv3d(5, 20).double()
    plain = layer(SparseSubdivide()(SparseTensor(x.feats, x.coords)))
    products = subdivide_conv(x, layer)
    assert torch.equal(products.coords, plain.coords)
    assert torch.allclose(products.feats, plain.feats, atol=1e-12)


def test_neighbours_of_subdivided_sites_follow_from_their_parents() -> None:
    sites = Sites(random_coords([60, 30], 6))
    neighbour_map(sites)
    fine = subdivided_sites(sites)
    assert "neighbours" in fine.cache
    assert torch.equal(neighbour_map(fine), neighbour_map(Sites(fine.coords)))
    assert fine.extent == Sites(fine.coords).extent


def test_pooling_divides_by_children_plus_one() -> None:
    x = SparseTensor(torch.full((1, 2), 3.0), torch.tensor([[0, 5, 5, 5]], dtype=torch.int32))
    down = SparseDownsample()(x)
    assert torch.allclose(down.feats, torch.full((1, 2), 1.5))
    assert down.coords.tolist() == [[0, 2, 2, 2]]
    assert SparseUpsample()(down).coords.tolist() == [[0, 5, 5, 5]]


def test_two_pooling_levels_return_to_their_own_voxels() -> None:
    x = SparseTensor(torch.randn(120, 3), random_coords([70, 50], 9))
    middle = SparseDownsample()(x)
    coarse = SparseDownsample()(middle)
    back = SparseUpsample()(SparseUpsample()(coarse))
    assert torch.equal(back.coords, x.coords)


def test_maps_of_pooled_voxels_go_with_the_voxels() -> None:
    """At once, and not when Python next looks for cycles: they are hundreds of megabytes an asset."""
    x = SparseTensor(torch.randn(120, 3), random_coords([70, 50], 9))
    SparseUpsample()(SparseDownsample()(x))
    kept = [weakref.ref(neighbour_map(sites)) for sites in (x.sites, pooled_sites(x.sites)[0])]
    gc.disable()
    try:
        del x
        assert not any(map_() is not None for map_ in kept)
    finally:
        gc.enable()


def test_kernel_of_one_reads_its_memory_as_in_by_out() -> None:
    layer = SparseConv3d(768, 192, kernel_size=1)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.arange(768 * 192).view(layer.conv.weight.shape))
        layer.conv.bias.zero_()
    x = SparseTensor(torch.eye(768)[1:2], torch.zeros(1, 4, dtype=torch.int32))
    assert layer(x).feats[0, 0].item() == 192


def test_rows_and_bounds() -> None:
    for counts, size, rows in (([5], None, [5]), ([5], 3, [5, 0, 0]), ([4, 0, 3], 4, [4, 0, 3, 0]), ([], 2, [0, 0])):
        coords = random_coords(counts, 6) if counts else torch.zeros(0, 4, dtype=torch.int32)
        sites, known = Sites(coords, batch_size=size), Sites(coords, rows)
        assert sites.lengths == rows and sites.bounds == known.bounds
        if counts:
            assert sites.bounds == (coords[:, 1:].amin(0).tolist(), coords[:, 1:].amax(0).tolist())


def test_a_batch_number_below_zero_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="negative"):
        Sites(torch.tensor([[-1, 0, 0, 0], [0, 1, 1, 1]]))


def test_position_embedding() -> None:
    coords = random_coords([40, 30], 50)
    for channels in (12, 40, 96):
        made = Sites(coords).position_embedding(channels)
        axis = channels // 6
        angles = coords[:, 1:, None].double() / 10000 ** (torch.arange(axis).double() / axis)
        exact = F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1), (0, channels - 6 * axis))
        assert made.dtype == torch.float32 and (made - exact).abs().max() < 1e-5
        assert torch.equal(made, position_embedding(coords[:, 1:], channels))


def test_windows() -> None:
    axis = torch.tensor([3, 4, 7, 8, 59, 60, 63])
    coords = torch.stack([torch.zeros_like(axis), axis, torch.zeros_like(axis), torch.zeros_like(axis)], 1)
    sites = Sites(coords.int())

    def groups(shift: int) -> list[int]:
        segments = sites.windows(8, shift)
        return (segments.padding.slots // segments.length).tolist()

    assert groups(0)[0] == groups(0)[1] and groups(4)[0] != groups(4)[1]
    assert groups(4)[4] != groups(4)[5] == groups(4)[6]


def test_segments_of_unequal_length_and_empty_batches() -> None:
    segments = Segments.consecutive([2, 0, 3], torch.device("cpu"))
    rows = torch.arange(5.0)[:, None].requires_grad_()
    padded = segments.pad(rows)
    assert padded.shape == (3, 3, 1)
    assert torch.equal(segments.unpad(padded), rows)
    owner = rows_of_segments(torch.tensor([[1.0], [2.0], [3.0]]), segments)
    assert owner[:, 0].tolist() == [1, 1, 3, 3, 3]
    attend = SparseMultiHeadAttention(4, 2)
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [2, 0, 0, 0]], dtype=torch.int32)
    out = attend(SparseTensor(torch.randn(3, 4), coords))
    out.feats.sum().backward()
    assert out.feats.isfinite().all() and attend.to_qkv.weight.grad.isfinite().all()


def test_batch_helpers() -> None:
    x = SparseTensor(torch.randn(9, 2), random_coords([4, 5], 5))
    assert x.shape == (2, 2) and x.layout == [slice(0, 4), slice(4, 9)]
    doubled = x.repeated(2)
    assert doubled.batch_size == 4 and doubled.sites is x.repeated(2).sites
    assert doubled.sites.lengths == [4, 5, 4, 5]
    assert doubled.coords[:, 0].unique().tolist() == [0, 1, 2, 3]
    again = SparseTensor.batched([x[0], x[1]])
    assert torch.equal(again.coords, x.coords) and torch.equal(again.feats, x.feats)
    with pytest.raises(ValueError, match="rows"):
        x.replace(torch.zeros(3, 2))


@pytest.mark.parametrize("grad", [True, False])
def test_convolution_of_no_voxels(grad: bool) -> None:
    x = SparseTensor(torch.zeros(0, 6), torch.zeros(0, 4, dtype=torch.int32))
    with torch.set_grad_enabled(grad):
        assert SparseConv3d(6, 10)(x).feats.shape == (0, 10)


def test_spconv_agrees_with_the_native_backend() -> None:
    pytest.importorskip("spconv.pytorch", reason="spconv is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its CPU build races with several
    try:
        torch.manual_seed(0)
        x = SparseTensor(torch.randn(500, 16), random_coords([300, 200], 9))
        native = SparseConv3d(16, 24)
        other = SparseConv3d(16, 24, backend=SpconvBackend())
        other.load_state_dict(native.state_dict())
        with torch.no_grad():
            assert torch.allclose(native(x).feats, other(x).feats, atol=1e-4)
    finally:
        torch.set_num_threads(threads)
