"""Launches past Triton's search: the same kernel for the same kind of arguments, another one for all others."""

import pytest
import torch

from gap3d_app.kernels import Launcher, Tiled, kernel_module, triton_fits

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Compiled:
    """Stands for what Triton gives back; tells what it was launched with."""

    def __init__(self) -> None:
        self.launches = []

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda *arguments: self.launches.append((grid, arguments))


class Kernel:
    """Stands for a kernel under `triton.jit`, whose searches are counted."""

    arg_names = ["x", "rows", "scale", "WIDE"]

    def __init__(self) -> None:
        self.made = []

    def __getitem__(self, grid: tuple[int, ...]):
        def search(*arguments, **named):
            self.made.append(Compiled())
            self.arguments, self.named = arguments, named
            return self.made[-1]

        return search


def test_a_kind_is_searched_for_once() -> None:
    kernel = Kernel()
    launch, x = Launcher(kernel), torch.zeros(8)
    launch((3,), (x, 7, 0.5), {"WIDE": 4}, num_warps=2)
    assert kernel.named == {"WIDE": 4, "num_warps": 2}
    launch((5,), (torch.ones(16), 9, 0.25), {"WIDE": 4}, num_warps=2)
    assert len(kernel.made) == 1
    ((grid, arguments),) = kernel.made[0].launches
    assert grid == (5, 1, 1) and arguments[1:] == (9, 0.25, 4) and arguments[0].numel() == 16


@pytest.mark.parametrize(
    "arguments, constants, options",
    [
        ((torch.zeros(9)[1:], 7, 0.5), {"WIDE": 4}, {"num_warps": 2}),  # begins at four bytes of sixteen
        ((torch.zeros(8).half(), 7, 0.5), {"WIDE": 4}, {"num_warps": 2}),
        ((None, 7, 0.5), {"WIDE": 4}, {"num_warps": 2}),
        ((torch.zeros(8), 1, 0.5), {"WIDE": 4}, {"num_warps": 2}),
        ((torch.zeros(8), 32, 0.5), {"WIDE": 4}, {"num_warps": 2}),
        ((torch.zeros(8), (1 << 31) + 1, 0.5), {"WIDE": 4}, {"num_warps": 2}),
        ((torch.zeros(8), 7, 0.5), {"WIDE": 8}, {"num_warps": 2}),
        ((torch.zeros(8), 7, 0.5), {"WIDE": 4}, {"num_warps": 4}),
    ],
)
def test_other_kinds_are_searched_for(arguments: tuple, constants: dict, options: dict) -> None:
    kernel = Kernel()
    launch = Launcher(kernel)
    launch((3,), (torch.zeros(8), 7, 0.5), {"WIDE": 4}, num_warps=2)
    launch((3,), arguments, constants, **options)
    assert len(kernel.made) == 2 and not kernel.made[0].launches


def test_the_search_can_take_more_than_a_launch() -> None:
    kernel = Kernel()
    launch = Launcher(kernel, lambda tiled: {"described": tiled})
    x = Tiled(torch.zeros(8, 8), [8, 8], [8, 1], (4, 8))
    launch((3,), (x, 7, 0.5), {"WIDE": 4})
    launch((3,), (x, 9, 0.5), {"WIDE": 4})
    assert kernel.arguments[0]["described"] is x and kernel.arguments[1] == 7
    assert len(kernel.made) == 1 and kernel.made[0].launches[0][1][0] is x
    for other in (x._replace(block=(8, 8)), x._replace(base=x.base.half())):
        launch((3,), (other, 9, 0.5), {"WIDE": 4})
    assert len(kernel.made) == 3


def test_constants_in_another_order_are_refused() -> None:
    with pytest.raises(TypeError, match="does not end with"):
        Launcher(Kernel())((3,), (torch.zeros(8), 7), {"WIDE": 4, "scale": 1.0})


@torch.no_grad()
@pytest.mark.gpu
@needs_cuda
def test_rows_at_odd_places_on_cuda() -> None:
    """Kernels for aligned rows read sixteen bytes at a time, which fails elsewhere."""
    kernel = kernel_module("gap3d_app.nn.triton_sum_norm", triton_fits)
    if kernel is None:
        pytest.skip("Triton does not run here")
    values = torch.randn(64 * 40 + 1, device="cuda").half()
    for _ in range(2):
        for x in (values[:-1].view(40, 64), values[1:].view(40, 64)):
            total, _ = kernel.sum_norm(x, x, None, None)
            assert torch.equal(total, x + x)
