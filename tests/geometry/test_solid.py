"""The flood fill from outside: what counts as enclosed, and its two ways of walking."""

import itertools

import pytest
import torch

from gap3d_app.geometry import solid as solid_module
from gap3d_app.geometry.solid import fill_enclosed, outside_by_runs, outside_of, sealed_off
from gap3d_app.kernels import kernel_module


def maze(size: int = 12) -> torch.Tensor:
    """Walls with one gap each, at opposite ends: the way in has as many bends as walls."""
    solid = torch.zeros(size, size, size, dtype=torch.bool)
    solid[:, :, [0, -1]] = solid[:, [0, -1]] = solid[-1] = True
    for wall in range(1, size - 1, 2):
        solid[wall] = True
        solid[wall, 1 if wall % 4 == 1 else size - 2, 5] = False
    return solid


def hollow_box() -> torch.Tensor:
    solid = torch.zeros(9, 8, 7, dtype=torch.bool)
    solid[2:7, 2:6, 1:6] = True
    solid[3:6, 3:5, 2:5] = False
    return solid


def noise(share: float) -> torch.Tensor:
    return torch.rand(20, 17, 23, generator=torch.Generator().manual_seed(1)) < share


def test_a_cavity_is_filled_and_a_dent_is_not() -> None:
    solid = hollow_box()
    filled = fill_enclosed(solid)
    assert filled[4, 4, 4] and not solid[4, 4, 4]
    assert filled.sum() == 5 * 4 * 5
    solid[4, 3:, 3] = False  # a hole in one side
    assert torch.equal(fill_enclosed(solid), solid)


@pytest.mark.parametrize("make", [maze, hollow_box, lambda: noise(0.35), lambda: noise(0.6), lambda: noise(0.0)])
def test_runs_reach_what_single_steps_reach(make) -> None:
    solid = make()
    assert torch.equal(outside_by_runs(solid), torch.from_numpy(outside_of(solid.numpy())))


def blocks(gap: bool, start: int = 2) -> torch.Tensor:
    """Lattice vertices of the walls of a room of 4^3 blocks, each of 4^3 cubes; with a gap of a block, if asked."""
    block = torch.ones(6, 6, 6, dtype=torch.bool)
    block[1:5, 1:5, 1:5] = False
    block[2, 2, 0] = not gap
    cells = block
    for axis in range(3):
        cells = cells.repeat_interleave(4, axis)
    touched = torch.zeros(30, 28, 30, dtype=torch.bool)
    for x, y, z in itertools.product((0, 1), repeat=3):
        touched[start + x : start + x + 24, 2 + y : 26 + y, 4 + z : 28 + z] |= cells
    return touched


@pytest.mark.parametrize("start", [2, 3])
def test_the_room_behind_a_wall_of_blocks_is_sealed_off(start: int) -> None:
    touched = blocks(gap=False, start=start)
    expected = torch.zeros_like(touched)
    expected[start + 5 : start + 20, 7:22, 9:24] = True  # all but the vertices that the walls touch
    assert torch.equal(sealed_off(touched), expected)
    assert not sealed_off(blocks(gap=True, start=start)).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", [True, False])
def test_cuda_equals_cpu(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel, and without it."""
    if not kernel:
        monkeypatch.setattr(solid_module, "kernel_module", lambda name: None)
    elif kernel_module("gap3d_app.geometry.triton_flood") is None:
        pytest.skip("triton does not run here")
    for solid in (maze(), hollow_box(), noise(0.35), noise(0.6), noise(0.0)):
        assert torch.equal(fill_enclosed(solid.cuda()).cpu(), fill_enclosed(solid))
    assert torch.equal(sealed_off(blocks(False).cuda()).cpu(), sealed_off(blocks(False)))
