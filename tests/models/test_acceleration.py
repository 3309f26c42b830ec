"""Together, stacked, compiled and recorded ways through the flows against the plain ones."""

from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gap3d_app.flow.graphs import REPLAYS, GraphedFlow
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.kernels import gluon_fits
from gap3d_app.models.acceleration import accelerated
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.grid_sampling import generate_grid, grid_sampler
from gap3d_app.nn.activations import TanhGELU, linear_gelu
from gap3d_app.nn.attention_kernels import KERNELS, AttentionSize, attend, fastest_kernel, kernel_times
from gap3d_app.nn.parts import at_ends, part_ends
from gap3d_app.nn.torso import TorsoModule
from gap3d_app.nn.transformer import run_blocks
from gap3d_app.sparse.tensor import SparseTensor
from tests.models.test_fast_paths import awake, slat_flow, structure_flow, voxels
from tests.models.test_grid_dit import TINY, random_state

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SAMPLER = FlowSampler(steps=6, rescale_t=3.0, cfg_strength=2.0, cfg_interval=(0.5, 1.0))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("times", [[800.0, 300.0], [800.0]])
def test_conditions_in_one_batch(times: list[float]) -> None:
    """With one time for all samples, the first self-attention is made once for all conditions."""
    flow = structure_flow(True)
    x, t, cond = torch.randn(2, 8, 4, 4, 4), torch.tensor([times]), torch.randn(2, 7, 24)
    (steps,) = flow.prepare([cond, torch.zeros_like(cond), 2 * cond], t)
    h, contexts = flow._embed(x), [step.contexts for step in steps]
    apart, together = (
        run_blocks(flow.blocks, h, steps[0].mods.unbind(0), contexts, lambda h: h, together=flag)
        for flag in (False, True)
    )
    for slow, fast in zip(apart, together, strict=True):
        assert torch.allclose(slow, fast, atol=2e-6)


@torch.no_grad()
def test_stacked_products() -> None:
    torch.manual_seed(0)
    dit = awake(GridDiT(TINY))
    before, keys = dit.state_dict(), set(dit.state_dict())
    before = {key: value.clone() for key, value in before.items()}
    cond, noise = torch.randn(2, 6, 20), random_state()
    slow = generate_grid(dit, cond, noise, grid_sampler(3))
    for block in dit.blocks():
        block.stack()
    assert torch.allclose(generate_grid(dit, cond, noise, grid_sampler(3)), slow, atol=1e-5)
    assert set(dit.state_dict()) == keys
    assert all(torch.equal(value, before[key]) for key, value in dit.state_dict().items())


def test_recorded_steps_follow_their_arguments() -> None:
    """Without CUDA the static copies are made and filled all the same: other conditions, other voxels."""
    for make, states in (
        (lambda: structure_flow(False), [torch.randn(1, 8, 4, 4, 4) for _ in range(2)]),
        (slat_flow, [SparseTensor(torch.randn(n, 8), voxels([n])) for n in (90, 60)]),
    ):
        flow = make()
        recorded = GraphedFlow(flow)
        for state in [*states, states[0]]:
            for _ in range(2):
                cond = torch.randn(1, 7, 24)
                slow = SAMPLER.sample(flow, state, cond, torch.zeros_like(cond))
                fast = SAMPLER.sample(recorded, state, cond, torch.zeros_like(cond))
                slow, fast = (getattr(x, "feats", x) for x in (slow, fast))
                assert torch.allclose(slow, fast, atol=1e-5)


@torch.no_grad()
def test_recorded_results_are_the_callers() -> None:
    flow = structure_flow(True)
    recorded, x, cond = GraphedFlow(flow), torch.randn(1, 8, 4, 4, 4), torch.randn(1, 7, 24)
    steps = flow.prepare([cond], torch.tensor([[900.0], [500.0], [100.0], [50.0]]))
    found = [recorded.velocities(x, step)[0] for step in steps]
    for step, velocity in zip(steps, found, strict=True):
        assert torch.allclose(velocity, flow.velocities(x, step)[0], atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("kind", ["structure", "grid"])
def test_prepared_values_stay_where_they_are(kind: str, device: str) -> None:
    """The next prompt's lie in the same memory, those of other step numbers elsewhere; steps read conditions there."""
    torch.manual_seed(0)
    if kind == "grid":
        flow, state, shape = awake(GridDiT(TINY)).to(device), random_state(), (1, 6, 20)
        state = type(state)(*(part[:1].to(device) for part in state))
    else:
        flow, state = structure_flow(True).to(device), torch.randn(1, 8, 4, 4, 4, device=device)
        shape = (1, 7, 24)
    recorded, places = GraphedFlow(flow), []
    for steps in (3, 3, 2, 2):
        cond = torch.randn(shape, device=device)
        given = [cond, torch.zeros_like(cond)], torch.linspace(900, 100, steps, device=device)[:, None]
        for made, right in zip(recorded.prepare(*given), flow.prepare(*given), strict=True):
            for _ in range(3):
                for fast, slow in zip(recorded.velocities(state, made), flow.velocities(state, right), strict=True):
                    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (fast, slow)), strict=True):
                        assert torch.allclose(a, b, atol=1e-5)
        cond.add_(1)  # what was prepared is not the condition itself
        static = {tensor.data_ptr() for tensor in recorded._records[2].static}
        places.append({tensor.data_ptr() for tensor in recorded._lasting.values()})
        assert places[-1] <= static and len(places[-1]) >= 2 * len(flow.blocks() if kind == "grid" else flow.blocks)
    assert places[0] == places[1] and places[2] == places[3]


@torch.no_grad()
def test_chains_tell_where_their_parts_end() -> None:
    """After an eighth, half and seven eighths of the blocks, to the thread that asked."""
    flow = structure_flow(True)
    (step,) = flow.prepare([torch.randn(1, 7, 24)], torch.tensor([[800.0]]))
    blocks, contexts = nn.ModuleList([flow.blocks[0]] * 7), [[step[0].contexts[0]] * 7]
    ends, elsewhere = [], []
    h = flow._embed(torch.randn(1, 8, 4, 4, 4))
    with at_ends(lambda: ends.append(len(ends))):
        run_blocks(blocks, h, [step[0].mods[0]] * 7, contexts, lambda h: h)
        thread = Thread(target=lambda: elsewhere.append(part_ends()))
        thread.start()
        thread.join()
    part_ends()
    assert ends == [0, 1, 2] and elsewhere == [None]


def test_kernels_away_from_cuda() -> None:
    cpu = torch.device("cpu")
    size = AttentionSize(1, 2, 8, 8, 16, torch.float32)
    assert kernel_times(size, cpu) == {}
    assert fastest_kernel(size, cpu) == "torch"


HOPPER = pytest.mark.skipif(not gluon_fits(), reason="needs a Hopper GPU and Triton's Gluon")


def on_its_device(kernel: str):
    """The kernel as a parameter, marked with what it needs."""
    if kernel == "torch":
        return kernel
    return pytest.param(kernel, marks=[*on_gpu, HOPPER] if kernel == "gluon" else on_gpu)


def exactly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention in double precision."""
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double())


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(70, 33), (700, 700), (300, 1374), (64, 128), (1, 129)])
@pytest.mark.parametrize("kernel", [on_its_device(kernel) for kernel in KERNELS])
def test_kernels_agree(kernel: str, lengths: tuple[int, int]) -> None:
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    shapes = [(2, n, 3, 64) for n in (*lengths, lengths[1])]
    q, k, v = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for shape in shapes)
    assert distance(attend(q, k, v, kernel=kernel).double(), exactly(q, k, v)) < 2e-3


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [on_its_device(kernel) for kernel in KERNELS])
@pytest.mark.parametrize("rising", [False, True])
def test_scores_far_apart(kernel: str, rising: bool, dtype: torch.dtype) -> None:
    """Scores of hundreds that come last, or first, whichever tile a kernel begins with; some queries have none."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v = (torch.randn(2, 3, 900, 64, device=device, dtype=dtype) for _ in range(3))
    strength = torch.linspace(0.1, 20, 900, device=device, dtype=dtype)
    k = k * (strength if rising else strength.flip(0))[:, None]
    q[:, :, ::7] *= 0.01
    assert distance(attend(q, k, v, kernel=kernel).double(), exactly(q, k, v)) < 6e-3


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [on_its_device("tiles"), on_its_device("gluon")])
def test_kernels_within_compiled_code(kernel: str) -> None:
    """One compilation for all lengths, from the parts of a joined product."""

    def mix(x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.transpose(1, 2) for part in x.unflatten(-1, (3, 3, 64)).unbind(-3))
        return attend(q + 1, k, v, kernel=kernel)

    fast = torch.compile(mix, fullgraph=True, dynamic=False)
    for length in (200, 333, 512):
        x = torch.randn(2, length, 3 * 3 * 64, device="cuda", dtype=torch.float16)
        torch._dynamo.maybe_mark_dynamic(x, 1)
        q, k, v = (part.transpose(1, 2) for part in x.unflatten(-1, (3, 3, 64)).unbind(-3))
        assert distance(fast(x).double(), exactly(q + 1, k, v)) < 2e-3


@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 16)])
def test_gelu_within_the_product(shape: tuple[int, ...]) -> None:
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    layer, x = nn.Linear(16, 64).to(device, dtype), torch.randn(shape, device=device, dtype=dtype)
    with torch.no_grad():
        made = linear_gelu(layer, TanhGELU(), x)
    exact = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
    assert made.shape == exact.shape and made.dtype == dtype
    assert distance(made.double(), exact) < 2e-3


class TestOnCuda:
    pytestmark = on_gpu

    @pytest.mark.parametrize("make", [lambda: structure_flow(False), slat_flow])
    @pytest.mark.parametrize("graphs", [False, True])
    def test_flows(self, make, graphs: bool) -> None:
        flow: TorsoModule = make().cuda().to_torso_dtype(torch.float16)
        plain: TorsoModule = make().cuda().to_torso_dtype(torch.float16)
        fast = accelerated(flow, 64, 7, graphs=graphs)
        for count in (90, 60):
            state = torch.randn(1, 8, 4, 4, 4, device="cuda")
            if make is slat_flow:
                state = SparseTensor(torch.randn(count, 8, device="cuda"), voxels([count]).cuda())
            cond = torch.randn(1, 7, 24, device="cuda")
            slow = SAMPLER.sample(lambda x, t, c: plain(x, t, c), state, cond, torch.zeros_like(cond))
            quick = SAMPLER.sample(fast, state, cond, torch.zeros_like(cond))
            slow, quick = (getattr(x, "feats", x) for x in (slow, quick))
            assert distance(quick, slow) < 2e-2

    @torch.no_grad()
    def test_a_step_runs_part_by_part_as_it_is_recorded(self) -> None:
        """The second call's velocities are those of what is recorded, which later calls replay, at last as a whole."""
        flow, cond = slat_flow().cuda(), torch.randn(1, 7, 24, device="cuda")
        recorded, state = GraphedFlow(flow), SparseTensor(torch.randn(90, 8, device="cuda"), voxels([90]).cuda())
        parts = []
        for step in recorded.prepare([cond], torch.linspace(900, 100, 8, device="cuda")[:, None]):
            state = state.replace(torch.randn(90, 8, device="cuda"))
            (velocity,) = recorded.velocities(state, step)
            assert torch.allclose(velocity.feats, flow.velocities(state, step)[0].feats, atol=1e-5)
            parts += [len(record.graphs) for record in recorded._records.values()] or [0]
        assert parts == [0, 4, 4, 4, 4, 1, 1, 1] and len(recorded._prepared.graphs) == 1

    @torch.no_grad()
    def test_what_fails_while_it_is_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a later part too: the error is the caller's, and a new beginning finds the flow as it was."""
        flow, state = structure_flow(True).cuda(), torch.randn(1, 8, 4, 4, 4, device="cuda")
        recorded, cond = GraphedFlow(flow), torch.randn(1, 7, 24, device="cuda")
        (step,) = recorded.prepare([cond], torch.tensor([[700.0]], device="cuda"))
        right = recorded.velocities(state, step)[0]
        monkeypatch.setattr(flow.out_layer, "forward", lambda x: torch.empty(1 << 46, device="cuda"))
        with pytest.raises(torch.OutOfMemoryError):
            recorded.velocities(state, step)
        monkeypatch.undo()
        assert not recorded._records and not torch.cuda.is_current_stream_capturing()
        recorded.forget()
        (step,) = recorded.prepare([cond], torch.tensor([[700.0]], device="cuda"))
        for _ in range(REPLAYS + 4):
            assert torch.allclose(recorded.velocities(state, step)[0], right, atol=1e-5)

    @pytest.mark.parametrize("graphs", [False, True])
    def test_grid(self, graphs: bool) -> None:
        torch.manual_seed(0)
        dit = awake(GridDiT(TINY)).cuda()
        cond, noise = torch.randn(1, 6, 20, device="cuda"), random_state()
        noise = type(noise)(*(part[:1].cuda() for part in noise))
        slow = generate_grid(dit, cond, noise, grid_sampler(6, cfg_interval=(0.4, 1.0)))
        fast = accelerated(dit, 30, 6, graphs=graphs)
        for _ in range(2):
            assert distance(generate_grid(fast, cond, noise, grid_sampler(6, cfg_interval=(0.4, 1.0))), slow) < 1e-3
