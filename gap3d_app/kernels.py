"""What this machine runs fast: Triton kernels, each with a twin in plain torch that runs elsewhere, and bfloat16."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, on the CPU: for tests of their arithmetic."""

INDEX_LIMIT = 1 << 31
"""Elements that 32-bit offsets reach."""


class Tiled(NamedTuple):
    """What a launch reads of Triton's tensor descriptors: making one of those checks for longer than a launch takes.

    Attributes:
        base: the tensor.
        shape, strides: of it, or of a view of its memory; the last stride is 1, the others are 16-byte steps.
        block: sizes of what is copied at a time.
    """

    base: Tensor
    shape: list[int]
    strides: list[int]
    block: tuple[int, ...]
    padding: str = "zero"


class Launcher:
    """Launches of a Triton kernel, past Triton's search for what it has compiled of it once that was found.

    The search looks at every argument and takes longer than the launch; where many small kernels follow each other,
    the GPU waits for it. What it looks for depends on no more than `_kind` says of the arguments.

    Args:
        kernel: what `triton.jit` makes; its compile-time constants come last.
        described: makes of a `Tiled` argument the descriptor that the search takes in its place.
    """

    def __init__(self, kernel: Any, described: Callable[[Tiled], Any] | None = None) -> None:
        self.kernel, self.described, self.found = kernel, described, {}

    def __call__(
        self, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], **options: Any
    ) -> None:
        """Launch it.

        Args:
            grid: numbers of programs, one to three.
            arguments: tensors on the current device, `Tiled` ones, None, integers and floats, in the kernel's order.
            constants: its compile-time constants, in its order.
            options: of the compilation, such as `num_warps`.
        """
        values = tuple(constants.values())
        kind = (values, tuple(options.items()), *map(_kind, arguments))
        compiled = self.found.get(kind)
        if compiled is not None:
            compiled[(*grid, 1, 1)[:3]](*arguments, *values)
            return
        if self.kernel.arg_names[len(arguments) :] != list(constants):
            raise TypeError(f"{self.kernel.arg_names} does not end with the constants {list(constants)}")
        arguments = [self.described(given) if isinstance(given, Tiled) else given for given in arguments]
        self.found[kind] = self.kernel[grid](*arguments, **constants, **options)  # None from the interpreter


def _kind(argument: Any) -> Any:
    """What Triton compiles for: dtype and alignment of a tensor, which integers are 1, even by 16, or wide."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.get_device(), argument.data_ptr() % 16 == 0
    if isinstance(argument, Tiled):
        return argument.base.dtype, argument.base.get_device(), argument.block
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, -INDEX_LIMIT <= argument < INDEX_LIMIT
    return type(argument)


def triton_fits() -> bool:
    """`triton_runs` on a device of the Ampere generation or later, on which Triton has bfloat16."""
    return triton_runs() and torch.cuda.get_device_capability() >= (8, 0)


def gluon_fits() -> bool:
    """`triton_runs` on a Hopper GPU, with a Triton that has Gluon for it."""
    if not triton_runs() or torch.cuda.get_device_capability() != (9, 0):
        return False
    try:  # still experimental: names come and go
        import triton.experimental.gluon.nvidia.hopper  # noqa: F401
    except ImportError:
        return False
    return True


def triton_runs() -> bool:
    """Whether there is Triton, a CUDA device, and a C compiler, with which Triton builds its launchers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    return bool(compiler) and torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


@cache
def kernel_module(name: str, fits: Callable[[], bool] = triton_runs) -> ModuleType | None:
    """A module of Triton kernels where `fits` says that they run, else None: not every machine can import it."""
    return importlib.import_module(name) if fits() else None


def fast_dtype(device: torch.device, dtype: Any) -> torch.dtype:
    """The type that was asked for; for "auto" bfloat16 on CUDA and on processors with bfloat16 instructions.

    Other processors run it ten times slower.
    """
    if dtype != "auto":
        return getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if device.type == "cuda":
        return torch.bfloat16
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if any(getattr(torch.cpu, check, bool)() for check in checks):
            return torch.bfloat16
    return torch.float32
