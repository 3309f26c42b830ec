"""Extraction by Triton kernels against plain torch."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from gap3d_app.geometry import blocks, lattice
from gap3d_app.geometry.flexicubes import MeshResult, average_corners, extract
from gap3d_app.kernels import kernel_module
from tests.geometry.random_cubes import random_cubes
from tests.geometry.shapes import cubes, sphere

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (a CPU machine does not need it)"
)


@needs_triton
def test_triton_interpreted_on_the_cpu() -> None:
    """The kernels' arithmetic without a GPU; the interpreter is chosen when triton loads, hence the process."""
    done = subprocess.run([sys.executable, "-m", "tests.geometry.interpreted"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "equal"


def noisy_sphere(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sphere of resolution 48 with uneven weights, deformed lattice and a rough surface."""
    coords, feats = cubes(sphere(), 48, color=(lambda p: p + 0.5) if channels == 101 else None)
    generator = torch.Generator().manual_seed(0)
    feats[:, :8] += torch.randn(len(coords), 8, generator=generator) * 0.2 / 48
    feats[:, 8:] += torch.randn(len(coords), channels - 8, generator=generator) * 0.3
    return coords.int(), feats


def assert_close(there: MeshResult, here: MeshResult) -> None:
    assert torch.equal(there.faces.cpu(), here.faces)
    assert (there.vertices.cpu() - here.vertices).abs().max() < 1e-6
    if here.vertex_attrs is not None:
        assert (there.vertex_attrs.cpu() - here.vertex_attrs).abs().max() < 1e-5


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("channels", [53, 101])
@pytest.mark.parametrize("solid", [False, True])
@pytest.mark.parametrize("without", [(), (lattice,), (lattice, blocks)])
@torch.no_grad()
def test_extraction_on_cuda(channels: int, solid: bool, without: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels and without, the device gives the processor's surface."""
    for module in without:
        monkeypatch.setattr(module, "kernel_module", lambda name: None)
    if len(without) < 2 and kernel_module("gap3d_app.geometry.triton_lattice") is None:
        pytest.skip("triton does not run here")
    coords, feats = noisy_sphere(channels)
    here = extract(coords, feats, 48, solid=solid)
    assert_close(extract(coords.cuda(), feats.cuda(), 48, solid=solid), here)
    empty = extract(coords.cuda(), feats.cuda().fill_(1.0), 48, solid=solid)
    assert not empty.success


@pytest.mark.gpu
@needs_cuda
@needs_triton
@torch.no_grad()
def test_means_on_cuda_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, and so is which vertices are inside."""
    coords, feats = (t.cuda() for t in random_cubes(32, 0.4, 101))
    by_kernel = average_corners(coords, feats, 32)[1], lattice.ActiveCubes(coords, feats, 32).inside()
    for module in (lattice, blocks):
        monkeypatch.setattr(module, "kernel_module", lambda name: None)
    by_torch = average_corners(coords, feats, 32)[1], lattice.ActiveCubes(coords, feats, 32).inside()
    assert torch.equal(by_kernel[0], by_torch[0]) and torch.equal(by_kernel[1], by_torch[1])


@pytest.mark.gpu
@needs_cuda
def test_gradients_on_cuda_are_left_to_torch() -> None:
    coords, feats = noisy_sphere(53)
    there = feats.cuda().requires_grad_()
    here = feats.requires_grad_()
    for f, c in ((there, coords.cuda()), (here, coords)):
        extract(c, f, 48, training=True).vertices.square().sum().backward()
    assert (there.grad.cpu() - here.grad).norm() < 1e-3 * here.grad.norm()
