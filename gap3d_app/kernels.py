"""What this machine runs fast: Triton kernels, each with a twin in plain torch that runs elsewhere, and bfloat16."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, on the CPU: for tests of their arithmetic."""

INDEX_LIMIT = 1 << 31
"""Elements that 32-bit offsets reach."""


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
