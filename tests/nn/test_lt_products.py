"""Products by measured algorithms: cuBLASLt itself on a GPU; the choice, with a stand-in for the library, anywhere."""

from collections.abc import Callable
from copy import deepcopy
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from gap3d_app.full_size.reference_structure import ReferenceStructureFlow
from gap3d_app.models import acceleration
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.nn import activations, attention, lt_products
from gap3d_app.nn.activations import TanhGELU, linear_gelu
from gap3d_app.nn.attention import MultiHeadAttention
from gap3d_app.nn.transformer import FeedForward
from tests.models.test_fast_paths import awake, slat_flow, structure_flow
from tests.models.test_grid_dit import TINY
from tests.nn.lt_library import Library, exactly


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def operands(*shape: int, outputs: int = 24, device: str = "cpu", dtype=torch.float16) -> tuple[Tensor, ...]:
    """x of that shape, weight, bias."""
    weight = torch.randn(outputs, shape[-1], device=device) * shape[-1] ** -0.5
    made = torch.randn(shape, device=device), weight, torch.randn(outputs, device=device)
    return tuple(x.to(dtype) for x in made)


def test_classes_of_rows() -> None:
    assert lt_products.row_class(8896) == lt_products.row_class(8897) != lt_products.row_class(8192)
    assert lt_products.row_class(1) == lt_products.row_class(100)
    found = [lt_products.row_class(rows) for rows in range(1, 1 << 17)]
    assert found == sorted(found) and len(set(found)) == lt_products.LAST_CLASS + 1


def test_the_first_suggestion_stays_unless_another_is_clearly_faster() -> None:
    never = float("inf")
    for times, choice in (([100, 99, 90, 95], 2), ([100, 98.5], 0), ([80, 90], 0), ([never, 5, 4.99], 2)):
        assert lt_products.fastest(times) == choice
    with pytest.raises(RuntimeError, match="none of"):
        lt_products.fastest([never, never])


def tuned(flow: nn.Module) -> list[bool]:
    """Of the layers that make large products at every step."""
    layers = [m for m in flow.modules() if isinstance(m, FeedForward | MultiHeadAttention)]
    assert not any(m.tuned for m in layers if getattr(m, "cross", False))
    return [m.tuned for m in layers if not getattr(m, "cross", False)]


@pytest.mark.parametrize("make", [lambda: structure_flow(True), slat_flow])
def test_which_layers_are_tuned(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make()
    assert tuned(flow) == [False] * 6
    acceleration.accelerated(flow, 64, 7, False, compile_blocks=False)
    assert tuned(flow) == [False] * 6  # on a processor
    monkeypatch.setattr(acceleration, "lt_runs", lambda device: True)
    acceleration.accelerated(flow, 64, 7, False, compile_blocks=False)
    assert tuned(flow) == [True] * 6
    assert tuned(acceleration.plain(flow)) == [False] * 6


def test_the_grid_transformer_is_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "lt_runs", lambda device: True)
    dit = awake(GridDiT(TINY))
    acceleration.accelerated(dit, 30, 6, False, compile_blocks=False)
    assert not any(getattr(layer, "tuned", False) for layer in dit.modules())


@torch.no_grad()
def test_what_the_flows_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned: two products of every block. Plain, or as released: none, whatever the layers say."""
    asked = []

    def made(layer: nn.Linear, x: Tensor, gelu: bool = False) -> Tensor:
        asked.append((layer, gelu))
        return TanhGELU()(layer(x)) if gelu else layer(x)

    for module in (activations, attention):
        monkeypatch.setattr(module, "lt_linear", made)
        monkeypatch.setattr(module, "applies", lambda layer, x: True)
    monkeypatch.setattr(torch.ops.aten, "_addmm_activation", untuned_gelu)
    flow = structure_flow(True)
    x, t, cond = torch.randn(1, 8, 4, 4, 4), torch.tensor([700.0]), torch.randn(1, 7, 24)
    plain = flow(x, t, cond)
    assert not asked
    acceleration.tune_products(flow, True)
    assert torch.allclose(flow(x, t, cond), plain, atol=1e-6)
    expected = [(product, bool(n)) for b in flow.blocks for n, product in enumerate([b.self_attn.to_qkv, b.mlp.mlp[0]])]
    assert asked == expected
    ReferenceStructureFlow(flow)(x, t, cond)
    assert asked == expected


def untuned_gelu(bias: Tensor, x: Tensor, weight: Tensor, use_gelu: bool) -> Tensor:
    assert use_gelu
    return F.gelu(torch.addmm(bias, x, weight), approximate="tanh")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_away_from_cuda(dtype: torch.dtype) -> None:
    assert not lt_products.lt_runs(torch.device("cpu"))
    layer, x = nn.Linear(16, 24).to(dtype), torch.randn(5, 16, dtype=dtype)
    with torch.no_grad():
        assert not lt_products.applies(layer, x)
        assert torch.equal(linear_gelu(layer, TanhGELU(), x, tuned=True), linear_gelu(layer, TanhGELU(), x))


def on_fake_cuda(dtype: torch.dtype) -> SimpleNamespace:
    """What is looked at of a layer of 16 channels to 24; the layer itself would want a device for its numbers."""
    return SimpleNamespace(**{
        name: torch.empty(shape, device="cuda", dtype=dtype) for name, shape in (("weight", (24, 16)), ("bias", (24,)))
    })


def test_what_applies() -> None:
    with FakeTensorMode(), torch.no_grad():
        layer, x = on_fake_cuda(torch.float16), torch.empty(2, 16, device="cuda").half()
        assert lt_products.applies(layer, x)
        with torch.enable_grad():
            assert not lt_products.applies(layer, x)
        for other in (x.float(), x.bfloat16(), x.cpu()):
            assert not lt_products.applies(layer, other)
        layer.bias = layer.bias.float()
        assert not lt_products.applies(layer, x)
        layer.bias = None
        assert not lt_products.applies(layer, x)


def test_the_shape_that_compilers_are_told() -> None:
    with FakeTensorMode(), torch.no_grad():
        layer = on_fake_cuda(torch.bfloat16)
        for shape in ((7, 16), (2, 7, 16)):
            x = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
            x = x.transpose(0, -2)
            y = lt_products.lt_linear(layer, x, gelu=True)
            assert y.shape == (*x.shape[:-1], 24) and y.is_contiguous()
            assert y.dtype == x.dtype and y.device == x.device


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """A stand-in that works on the processor, and times by `library.times`."""
    made = Library()
    made.times, made.measured, made.recording = {1: 3.0, 2: 2.0, 3: 1.0}, 0, False
    functions = made.functions()

    def timed(runs: list[Callable[[], None]]) -> list[float]:
        made.measured += 1
        return [made.times[run.args[-1].algorithm.data[0]] for run in runs]

    lt_products._handle.cache_clear()
    for name, value in {
        "_library": lambda: functions, "_stream": lambda x: 77, "milliseconds": timed, "ALIGNMENT": 1,
        "_chosen": {}, "_prepared": {},
    }.items():  # fmt: skip
        monkeypatch.setattr(lt_products, name, value)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: made.recording)
    yield made
    lt_products._prepared.clear()  # destroyed while there is something to destroy it
    lt_products._handle.cache_clear()


def run(*given: Tensor, gelu: bool = False) -> None:
    made = lt_products._linear(*given, gelu)
    assert made.dtype == given[0].dtype and distance(made, exactly(*given, gelu)) < 4e-3
    assert made.shape == (*given[0].shape[:-1], len(given[1])) and made.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_a_class_are_measured_once(library: Library, dtype: torch.dtype) -> None:
    x, weight, bias = operands(700, 16, dtype=dtype)
    for rows in (700, 700, 701, 1000):
        x, weight, bias = operands(rows, 16, dtype=dtype)  # with the bias elsewhere
        run(x, weight, bias)
    assert library.measured == 1 and library.searched == 2 and library.ran == [3] * 4
    run(x, weight, bias, gelu=True)
    run(*operands(100, 16, dtype=dtype))
    assert library.measured == 3
    run(*operands(2, 350, 16, dtype=dtype))
    run(operands(16, 700, dtype=dtype)[0].t(), weight, bias)
    assert library.measured == 3 and len(lt_products._prepared) == 5


def test_the_first_suggestion_of_every_number_of_rows(library: Library) -> None:
    """Where it was the fastest, and where the one chosen is refused."""
    library.times = {1: 2.0, 2: 1.99, 3: 2.1}
    for rows in (700, 701):
        run(*operands(rows, 16))
    assert library.ran == [2, 2] and library.searched == 4
    library.times, library.rows = {1: 3.0, 2: 2.0, 3: 1.0}, {101}
    for rows in (100, 101, 102):
        run(*operands(rows, 16))
    assert library.ran[2:] == [3, 2, 3]


def test_nothing_is_measured_within_a_graph(library: Library) -> None:
    given = operands(700, 16)
    library.recording = True
    run(*given)
    run(*given)
    assert library.ran == [2, 2] and not library.measured and library.searched == 2
    library.recording = False
    run(*given)
    library.recording = True
    run(*operands(701, 16))
    assert library.ran == [2, 2, 3, 3] and library.measured == 1


@pytest.mark.parametrize(
    "name", ["Create", "MatmulDescCreate", "MatrixLayoutCreate", "MatmulPreferenceCreate", "MatmulAlgoGetHeuristic",
             "MatmulDescSetAttribute", "Matmul"],
)  # fmt: skip
def test_what_fails_is_torchs(library: Library, name: str, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    """From then on, without another trial; other numbers of rows are not."""
    monkeypatch.setattr(torch.ops.aten, "_addmm_activation", untuned_gelu)
    library.failing.add(name)
    given = operands(3, 16)
    for _ in range(2):
        run(*given, gelu=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"The product of 3 x 16 to 24 takes torch's algorithm: cublasLt{name} returned 7"
    ]
    library.failing.clear()
    run(*given, gelu=True)
    assert not library.ran
    run(*operands(4, 16), gelu=True)
    assert library.ran == [3]


def test_what_cublaslt_is_not_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows, and rows at places that its algorithms do not take."""
    assert lt_products._linear(*operands(0, 16), False).shape == (0, 24)
    monkeypatch.setattr(lt_products, "ALIGNMENT", 4)
    x, weight, bias = operands(3, 16)
    odd = torch.empty(len(bias) + 1, dtype=bias.dtype)[1:].copy_(bias)
    run(x, weight, odd)
    assert not library.ran
    run(x, weight, bias)
    assert library.ran


def test_few_products_are_kept_ready(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lt_products, "MOST_PREPARED", 3)
    for rows in range(1, 20):
        run(*operands(rows, 16))
        assert len(lt_products._prepared) <= 3
    kept = len(lt_products._prepared)
    assert kept == 1 and len(library.living) == 1 + 4 * kept  # the handle; a description and three layouts each


def test_threads_take_turns(library: Library) -> None:
    """Between the moment that a bias is told and the launch, nobody tells another."""
    given = [operands(3, 16) for _ in range(2)]
    run(*given[0])
    worst, library.delay = [1.0, 1.0], 1e-3

    def work(number: int) -> None:
        made = [lt_products._linear(*given[number], False) for _ in range(20)]
        worst[number] = max(distance(y, exactly(*given[number], False)) for y in made)

    in_threads(work)
    assert max(worst) < 2e-3


def in_threads(work: Callable[[int], None]) -> None:
    """Two at once."""
    threads = [Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


TYPES = [torch.float16, torch.bfloat16]
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is known at first, and nothing may fail; counts what is measured."""
    torch.manual_seed(0)
    measure, measured = lt_products.milliseconds, []
    monkeypatch.setattr(lt_products, "milliseconds", lambda runs: measured.append(len(runs)) or measure(runs))
    monkeypatch.setattr(lt_products, "_chosen", {})
    monkeypatch.setattr(lt_products, "_prepared", {})
    yield measured
    assert lt_products._prepared and None not in lt_products._prepared.values()


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a GPU of Hopper or later")
class TestOnCuda:
    def test_it_runs(self) -> None:
        assert lt_products.lt_runs(torch.device("cuda"))

    @torch.no_grad()
    @pytest.mark.parametrize("gelu", [True, False])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_as_exact_as_torch(self, fresh: list[int], dtype: torch.dtype, gelu: bool) -> None:
        for shape in ((8896, 256), (8897, 256), (2, 4449, 256), (100, 256), (1, 256), (3, 33, 256)):
            given = operands(*shape, outputs=768, device="cuda", dtype=dtype)
            made, exact = torch.ops.gap3d.lt_linear(*given, gelu), exactly(*given, gelu)
            usual = lt_products._by_torch(given[0].flatten(0, -2), *given[1:], gelu).view(exact.shape)
            assert made.shape == exact.shape and made.dtype == dtype
            assert distance(made, exact) < 2 * distance(usual, exact)
        assert len(fresh) == 2 and min(fresh) > 1

    @torch.no_grad()
    def test_as_an_operation_of_torchs(self, fresh: list[int]) -> None:
        given = operands(2, 50, 64, outputs=96, device="cuda")
        torch.library.opcheck(
            torch.ops.gap3d.lt_linear.default, (*given, True), test_utils=("test_schema", "test_faketensor")
        )

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", TYPES)
    def test_within_compiled_code(self, fresh: list[int], dtype: torch.dtype) -> None:
        """One compilation for all lengths."""
        layer, feed = MultiHeadAttention(128, 2), FeedForward(128)
        exact = deepcopy(nn.ModuleList([layer, feed])).cuda().to(dtype).double()
        nn.ModuleList([layer, feed]).cuda().to(dtype)
        layer.tuned = feed.tuned = True

        def both(x: Tensor, layer: nn.Module, feed: nn.Module) -> Tensor:
            return x + feed(x + layer(x))

        counters["stats"].clear()
        compiled = torch.compile(both, fullgraph=True, dynamic=False)
        for length in (200, 333, 512):
            x = torch.randn(2, length, 128, device="cuda", dtype=dtype)
            torch._dynamo.maybe_mark_dynamic(x, 1)
            made = compiled(x, layer, feed)
            assert distance(made, both(x.double(), *exact)) < (2e-3 if dtype == torch.float16 else 1.6e-2)
        assert counters["stats"]["unique_graphs"] == 1 and len(lt_products._prepared) == 6

    @torch.no_grad()
    @pytest.mark.parametrize("known", [True, False])
    def test_within_a_graph(self, fresh: list[int], known: bool) -> None:
        """Replayed with other numbers where the first ones were, after others have run beside."""
        x, weight, bias = given = operands(1024, 256, outputs=768, device="cuda")
        torch.ops.gap3d.lt_linear(x if known else x[:9], weight, bias, True)
        lt_products._by_torch(x, weight, bias, True)  # loads the code of what is suggested first
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = torch.ops.gap3d.lt_linear(x, weight, bias, True)
        assert len(fresh) == 1
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            bias.copy_(torch.randn_like(bias))
            torch.ops.gap3d.lt_linear(*operands(1024, 256, outputs=768, device="cuda"), True)
            graph.replay()
            assert distance(out, exactly(*given, True)) < 2e-3
        assert len(fresh) == (1 if known else 2)

    def test_two_threads_at_once(self, fresh: list[int]) -> None:
        """Their biases differ, and so do their streams."""
        given = [operands(256, 128, outputs=256, device="cuda") for _ in range(2)]
        exact, worst = [exactly(*each, False) for each in given], [1.0, 1.0]
        torch.cuda.synchronize()

        @torch.no_grad()
        def work(number: int) -> None:
            with torch.cuda.stream(torch.cuda.Stream()):
                made = [torch.ops.gap3d.lt_linear(*given[number], False) for _ in range(1000)]
                worst[number] = max(distance(y, exact[number]) for y in made)

        in_threads(work)
        assert max(worst) < 1e-3 and len(fresh) == 1
