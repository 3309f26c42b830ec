"""Faster ways through the networks give what the plain ways give."""

import pytest
import torch
import torch.nn.functional as F

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models import decoders, slat_vae
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.models.structure_flow import SparseStructureFlowModel
from gap3d_app.nn import attention
from gap3d_app.nn.activations import TanhGELU
from gap3d_app.nn.norms import LayerNorm32
from gap3d_app.sparse.conv import SparseConv3d
from gap3d_app.sparse.resample import SparseDownsample, SparseUpsample, unpooled_conv
from gap3d_app.sparse.tensor import SparseTensor

SIZES = dict(
    in_channels=8, out_channels=8, model_channels=32, cond_channels=24, num_blocks=3, num_heads=2, mlp_ratio=2,
    qk_rms_norm=True, qk_rms_norm_cross=True,
)


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """Random values where networks start with zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model.eval()


@pytest.fixture(params=[1, 2])
def threads(request):
    """One thread: branches one after the other; two: side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def structure_flow(share_mod: bool) -> SparseStructureFlowModel:
    torch.manual_seed(0)
    return awake(SparseStructureFlowModel.from_args(resolution=4, patch_size=1, share_mod=share_mod, **SIZES))


def slat_flow() -> SLatFlowModel:
    torch.manual_seed(0)
    return awake(
        SLatFlowModel.from_args(
            resolution=8, patch_size=2, num_io_res_blocks=2, io_block_channels=[16], share_mod=True, **SIZES
        )
    )


def voxels(counts: list[int], resolution: int = 8) -> torch.Tensor:
    """Random sites, [T, 4]."""
    rows = []
    for batch, count in enumerate(counts):
        cells = torch.randperm(resolution**3)[:count].sort().values
        rows.append(torch.stack([torch.full_like(cells, batch), cells // resolution**2,
                                 cells // resolution % resolution, cells % resolution], dim=1))
    return torch.cat(rows).int()


def test_gelu() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -60.0, 0.0, 60.0, 1e4])])
    with torch.no_grad():
        fast = TanhGELU()(x)
    assert (fast.double() - F.gelu(x.double(), approximate="tanh")).abs().max() < 1e-6
    x.requires_grad_()
    assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))


@pytest.mark.parametrize("share_mod", [True, False])
@torch.no_grad()
def test_structure_velocities(share_mod: bool, threads: int) -> None:
    flow = structure_flow(share_mod)
    x, t, cond = torch.randn(2, 8, 4, 4, 4), torch.tensor([800.0, 300.0]), torch.randn(2, 7, 24)
    both = [cond, torch.zeros_like(cond)]
    fast = flow.velocities(x, flow.prepare(both, t[None])[0])
    for c, velocity in zip(both, fast, strict=True):
        assert torch.allclose(velocity, flow(x, t, c), atol=2e-6)


@pytest.mark.parametrize("counts", [[90], [80, 80], [90, 40]])
def test_slat_velocities(counts: list[int], threads: int) -> None:
    flow = slat_flow()
    coords, t = voxels(counts), torch.tensor([800.0, 300.0])[: len(counts)]
    x, cond = SparseTensor(torch.randn(len(coords), 8), coords), torch.randn(len(counts), 7, 24)
    both = [cond, torch.zeros_like(cond)]
    with torch.no_grad():
        fast = flow.velocities(x, flow.prepare(both, t[None])[0])
    for c, velocity in zip(both, fast, strict=True):
        slow = flow(x, t, c)  # with gradients: the un-pooled convolution is not folded either
        assert slow.feats.requires_grad
        assert torch.allclose(velocity.feats, slow.feats, atol=5e-6)


@torch.no_grad()
def test_only_a_uniform_condition_is_folded() -> None:
    block = structure_flow(True).blocks[0].cross_attn
    cond = torch.randn(1, 1, 24).repeat(2, 5, 1)
    folded = block.prepare(cond)
    assert folded.keys is None and folded.constant.shape == (2, 32)
    x = torch.randn(2, 6, 32)
    assert torch.allclose(block(x, cond), folded.constant[:, None].expand_as(x), atol=1e-5)
    cond[1, 4, 3] += 0.5
    assert block.prepare(cond).constant is None


@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_the_sampler_takes_prepared_conditions(solver: str) -> None:
    flow, noise, cond = structure_flow(True), torch.randn(1, 8, 4, 4, 4), torch.randn(1, 7, 24)
    settings = FlowSampler(steps=5, rescale_t=3.0, cfg_strength=2.0, cfg_interval=(0.5, 1.0), solver=solver)
    fast = settings.sample(flow, noise, cond, torch.zeros_like(cond))
    slow = settings.sample(lambda *a: flow(*a), noise, cond, torch.zeros_like(cond))
    assert torch.allclose(fast, slow, atol=2e-5)
    unguided = FlowSampler(steps=3).sample(flow, noise, cond)
    assert torch.allclose(unguided, FlowSampler(steps=3).sample(lambda *a: flow(*a), noise, cond), atol=2e-5)


def test_convolution_of_unpooled_features() -> None:
    torch.manual_seed(0)
    coords = voxels([120, 30])
    fine = SparseTensor(torch.randn(len(coords), 5).double(), coords)
    coarse = SparseDownsample()(fine)
    layer = SparseConv3d(5, 4).double()
    plain, folded = layer(SparseUpsample()(coarse)), unpooled_conv(coarse, layer)
    assert torch.equal(folded.coords, coords)
    assert torch.allclose(folded.feats, plain.feats, atol=1e-12)
    with pytest.raises(ValueError, match="not pooled"):
        unpooled_conv(SparseTensor(coarse.feats, coarse.coords), layer)
    del fine, plain, folded
    with pytest.raises(ValueError, match="that are gone"):
        unpooled_conv(coarse, layer)


def test_gradients_of_an_unpooled_convolution() -> None:
    torch.manual_seed(0)
    coords = voxels([120, 30])
    fine = SparseTensor(torch.randn(len(coords), 5).double(), coords)
    coarse = SparseDownsample()(fine)
    layer = SparseConv3d(5, 4).double()
    weights = torch.randn(len(coords), 4).double()
    found = []
    for run in (lambda x: layer(SparseUpsample()(x)), lambda x: unpooled_conv(x, layer)):
        feats = coarse.feats.clone().requires_grad_()
        loss = (run(coarse.replace(feats)).feats * weights).sum()
        found.append(torch.autograd.grad(loss, [feats, layer.conv.weight, layer.conv.bias]))
    for slow, fast in zip(*found, strict=True):
        assert torch.allclose(fast, slow, atol=1e-12)


def test_gradients_and_autocast_still_work() -> None:
    flow = structure_flow(True)
    with torch.autocast("cpu", torch.bfloat16):
        flow(torch.randn(2, 8, 4, 4, 4), torch.tensor([800.0, 300.0]), torch.randn(2, 7, 24)).sum().backward()
    assert all(p.grad is not None for p in flow.blocks.parameters())


@pytest.mark.parametrize("mode", ["swin", "windowed", "full"])
def test_rows_in_the_order_of_windows(mode: str, varlen_on_cpu, monkeypatch) -> None:
    """The trunk of the decoders on rows that are sorted before a block, not in its attention."""
    torch.manual_seed(0)
    model = slat_vae.SLatEncoder.from_args(
        resolution=8, in_channels=5, model_channels=32, num_blocks=4, num_heads=2, attn_mode=mode, window_size=4
    )
    x = SparseTensor(torch.randn(150, 5), voxels([90, 60]))
    weights = list(model.blocks.parameters())

    def run() -> list[torch.Tensor]:
        feats = model.trunk(x).feats
        return [feats, *torch.autograd.grad(feats.sin().sum(), weights)]

    slow = run()
    for where in (slat_vae, attention):
        monkeypatch.setattr(where, "packed_kernel_fits", lambda *_: True)
    torch.testing.assert_close(run(), slow, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layer_norm_of_half_precision() -> None:
    """A plain norm needs no copy in float32 on CUDA: its kernel adds up in float32."""
    x = (torch.randn(70, 96, device="cuda") * 3 + 5).half()
    norm = LayerNorm32(96).cuda()
    assert norm(x).dtype == torch.float16
    torch.testing.assert_close(norm(x), norm(x.float()).half(), rtol=1e-3, atol=1e-6)


def test_the_mesh_decoder_without_gradients_equals_the_one_with(monkeypatch):
    """In place, and the last layer in parts, whose last one is shorter."""
    monkeypatch.setattr(decoders, "ROWS_AT_ONCE", 1000)
    torch.manual_seed(0)
    decoder = awake(
        decoders.SLatMeshDecoder.from_args(
            resolution=8, model_channels=64, latent_channels=8, num_blocks=2, num_heads=2, window_size=4,
            representation_config={"use_color": True}, upsample_channels=[32, 32],
        )
    )  # fmt: skip
    coords = torch.nonzero(torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(3)) < 0.2).int()
    x = SparseTensor(torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(1)), coords)
    expected = decoder(x).feats
    assert len(expected) == 64 * len(coords) and len(expected) % 1000
    with torch.no_grad():
        found = decoder(SparseTensor(x.feats, coords)).feats
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)
