"""The released code's way gives the package's numbers; counts and sizes are those of the specification."""

import pytest
import torch

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.full_size import bench, flops
from gap3d_app.full_size.measure import Measured
from gap3d_app.full_size.networks import COND_TOKENS, CONFIGS, FILES, PROMPT_TOKENS, random_latent, randomize, shell
from gap3d_app.full_size.reference_grid import ReferenceGrid
from gap3d_app.full_size.reference_mesh import ReferenceMeshCells, dense_tables
from gap3d_app.full_size.reference_rows import Rows, convolution
from gap3d_app.full_size.reference_sparse import ReferenceSLatFlow
from gap3d_app.full_size.reference_structure import ReferenceStructureFlow
from gap3d_app.full_size.stages import OURS, PLAIN, REFERENCE, SAMPLERS, Results, as_released
from gap3d_app.geometry.flexicubes import average_corners
from gap3d_app.models import slat_vae
from gap3d_app.models.checkpoint import build_model, read_config
from gap3d_app.models.decoders import SLatMeshDecoder
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.models.structure_flow import SparseStructureFlowModel
from gap3d_app.nn import attention
from gap3d_app.sparse.conv import SparseConv3d
from gap3d_app.sparse.tensor import Sites, SparseTensor
from tests.models.test_fast_paths import SIZES
from tests.models.test_grid_dit import TINY, random_state

CPU = torch.device("cpu")


def meta(stage: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(*read_config(CONFIGS / FILES[stage]))


@torch.no_grad()
def test_grid() -> None:
    torch.manual_seed(0)
    dit = GridDiT.from_args(**TINY.to_args() | {"n_kv_heads": TINY.n_heads})
    randomize(dit)
    state, cond, t = random_state(), torch.randn(2, 6, 20), torch.tensor([300.0, 900.0])
    for slow, fast in zip(ReferenceGrid(dit)(tuple(state), t, cond), dit(*state, cond, t), strict=True):
        torch.testing.assert_close(slow, fast, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share_mod", [False, True])
@torch.no_grad()
def test_structure(share_mod) -> None:
    torch.manual_seed(0)
    flow = SparseStructureFlowModel.from_args(resolution=4, patch_size=2, **SIZES | {"share_mod": share_mod})
    randomize(flow)
    x, cond = torch.randn(2, flow.config.in_channels, 4, 4, 4), torch.randn(2, 7, 24)
    t = torch.tensor([800.0, 100.0])
    torch.testing.assert_close(ReferenceStructureFlow(flow)(x, t, cond), flow(x, t, cond), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norms", [True, False])
@torch.no_grad()
def test_structured_latent(varlen_on_cpu, norms) -> None:
    torch.manual_seed(0)
    sizes = SIZES | {"qk_rms_norm": norms, "qk_rms_norm_cross": norms, "share_mod": norms}
    flow = SLatFlowModel.from_args(resolution=8, patch_size=2, io_block_channels=[16], **sizes)
    randomize(flow)
    x = SparseTensor.batched([random_latent(shell(number, CPU, resolution=8)) for number in (150, 60)])
    cond = torch.randn(2, 7, 24)
    for t in (torch.tensor([800.0, 300.0]), torch.tensor([100.0, 900.0])):
        slow, fast = ReferenceSLatFlow(flow)(x, t, cond), flow(x, t, cond)
        torch.testing.assert_close(slow.feats, fast.feats, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_convolutions_are_those_of_spconv() -> None:
    """On the card the reference's convolutions are spconv's, with and without a kept rulebook, and agree with ours."""
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is not installed")
    torch.manual_seed(0)
    sizes = SIZES | {"qk_rms_norm_cross": False}
    flow = SLatFlowModel.from_args(resolution=8, patch_size=2, io_block_channels=[16], **sizes)
    randomize(flow)
    flow = flow.to("cuda").to_torso_dtype(torch.float16)
    reference = ReferenceSLatFlow(flow)
    coords = shell(150, torch.device("cuda"), resolution=8)
    x, cond, t = random_latent(coords), torch.randn(1, 7, 24).cuda(), torch.tensor([800.0]).cuda()
    slow, fast = reference(x, t, cond).feats, flow(x, t, cond).feats
    assert isinstance(Rows.placed(x.feats, x.coords).data, spconv.SparseConvTensor)
    assert (slow - fast).norm() < 1e-2 * fast.norm()
    layer = SparseConv3d(16, 16).cuda()
    rows = Rows.placed(torch.randn(150, 16).cuda(), coords)
    for key in (None, "kept"):
        found = convolution(layer, key)(rows)
        torch.testing.assert_close(found.feats, layer(SparseTensor(rows.feats, coords)).feats, rtol=1e-3, atol=1e-3)
        assert list(found.data.indice_dict) == ([key] if key else [])


@torch.no_grad()
def test_mesh_cells_and_dense_tables() -> None:
    torch.manual_seed(0)
    decoder = SLatMeshDecoder.from_args(
        resolution=4, model_channels=32, num_blocks=1, num_heads=2, upsample_channels=[32, 32],
        representation_config={"use_color": True},
    )  # fmt: skip
    randomize(decoder)
    x = random_latent(shell(20, CPU, resolution=4))
    slow, fast = ReferenceMeshCells(decoder)(x), decoder(SparseTensor(x.feats, x.coords))
    torch.testing.assert_close(slow.feats, fast.feats, rtol=1e-4, atol=1e-5)
    tables = dense_tables(fast.coords[:, 1:], fast.feats, 16)
    coords, values = average_corners(fast.coords[:, 1:], fast.feats, 16)
    index = (coords * torch.tensor([17 * 17, 17, 1])).sum(-1)
    torch.testing.assert_close(tables["values"][index], values, rtol=1e-5, atol=1e-6)
    assert tables["inside"].shape == (16**3,) and tables["weights"].shape == (16**3, 21)


@torch.no_grad()
def test_a_decoder_as_released(varlen_on_cpu, monkeypatch) -> None:
    """Block by block with rows in the order of the voxels, and then again in that of their windows."""
    torch.manual_seed(0)
    decoder = SLatMeshDecoder.from_args(
        resolution=8, model_channels=32, num_blocks=3, num_heads=2, window_size=4, upsample_channels=[32, 32]
    )
    randomize(decoder)
    for where in (slat_vae, attention):
        monkeypatch.setattr(where, "packed_kernel_fits", lambda *_: True)
    x, sorted_blocks, called = random_latent(shell(60, CPU, resolution=8)), decoder._sorted_blocks, []
    monkeypatch.setattr(decoder, "_sorted_blocks", lambda h: called.append(h) or sorted_blocks(h))
    as_released(decoder, True)
    slow = decoder(x).feats
    assert not called
    as_released(decoder, False)
    torch.testing.assert_close(decoder(x).feats, slow, rtol=1e-4, atol=1e-5)
    assert called


@pytest.mark.parametrize("voxels", bench.VOXELS)
def test_shell(voxels: int) -> None:
    coords = shell(voxels, CPU)
    assert coords.shape == (voxels, 4) and coords.min() >= 0 and coords.max() < 64
    flat = (coords[:, 1:].long() * torch.tensor([4096, 64, 1])).sum(-1)
    assert (flat.diff() > 0).all()
    distance = (coords[:, 1:] - 31.5).norm(dim=1)
    assert distance.max() - distance.min() == pytest.approx(2, abs=0.1)


def test_counts_are_those_of_the_specification() -> None:
    """performance.md 2.1: TFLOP of one evaluation, and of whole runs."""
    grid = flops.grid_evaluation(meta("grid").config, PROMPT_TOKENS)
    assert grid.run(FlowSampler(steps=1), folded=False) / 1e12 == pytest.approx(3.15, rel=0.01)
    assert grid.run(SAMPLERS["grid"], folded=False) / 1e12 == pytest.approx(315, rel=0.01)
    structure = flops.flow_evaluation(meta("structure").config, 4096, COND_TOKENS)
    assert structure.run(FlowSampler(steps=1), folded=False) / 1e12 == pytest.approx(5.23, rel=0.01)
    assert structure.run(SAMPLERS["structure"], folded=False) / 1e12 == pytest.approx(230, rel=0.01)
    assert structure.run(SAMPLERS["structure"], folded=True) / 1e12 == pytest.approx(206, rel=0.02)
    # A thin shell pools into more tokens than the assets of the specification.
    slat = flops.slat_evaluation(meta("slat").config, Sites(shell(8048, CPU)), COND_TOKENS)
    assert slat.run(FlowSampler(steps=1), folded=False) / 1e12 == pytest.approx(1.8, rel=0.15)
    sites = Sites(shell(20216, CPU))
    assert flops.structure_decoder(meta("structure_decoder").config) / 1e12 == pytest.approx(0.81, rel=0.03)
    gaussians = meta("gaussians")
    trunk = flops.decoder_trunk(gaussians.config, sites, gaussians.out_layer.out_features)
    assert trunk / 1e12 == pytest.approx(3.5, rel=0.05)


def test_sums_and_exactness() -> None:
    results = Results()
    times = {"grid": (30.0, 5.0), "structure": (9.0, None), "slat 20216": (25.0, 4.0)}
    for stage, (reference, ours) in times.items():
        of_modes = ((REFERENCE, reference), (PLAIN, 6.0), (OURS, ours))
        results.rows += [Measured(stage, mode, ms) for mode, ms in of_modes]
    results.keep("grid", REFERENCE, torch.ones(4))
    results.keep("grid", OURS, torch.tensor([1.0, 1.0, 1.0, 1.2]))
    sums = bench.sums(results, 20216)
    assert sums["reference"] == {"samplers": 64.0} and sums["ours"] == {"samplers": 15.0}
    assert sums["samplers_ratio"] == 4.27
    assert bench.exactness(results)["grid"] == {OURS: pytest.approx(0.1)}
    assert "OutOfMemory" in bench.table(
        {"machine": {"device": "d", "torch": "t", "cudnn": "c"}, "matmul_tflops": [1.0, 1.0], "attention_ms": {},
         "stages": [Measured("grid", OURS, error="OutOfMemory").as_dict(1.0)], "exactness": {}, "sums": sums}
    )  # fmt: skip
