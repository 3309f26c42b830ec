"""Gaussians to pictures by gsplat's CUDA kernels, where the user installed gsplat (Apache-2.0).

Its "antialiased" mode is the screen filter of trellis.md section 7.2: the covariance grows by `eps2d` pixels squared
and the opacity shrinks by the square root of the ratio of the determinants.
"""

from __future__ import annotations

import importlib.util
from dataclasses import fields

import torch
from torch import Tensor

from gap3d_app.values import Gaussians


def applies(gaussians: Gaussians) -> bool:
    """Whether gsplat is installed and the Gaussians are on a CUDA device; gradients stay with the built-in renderer."""
    if not gaussians.raw_xyz.is_cuda or importlib.util.find_spec("gsplat") is None:
        return False
    values = (getattr(gaussians, item.name) for item in fields(gaussians))
    wanted = any(value.requires_grad for value in values if isinstance(value, Tensor))
    return not (torch.is_grad_enabled() and wanted)


def draw(gaussians: Gaussians, extrinsics: Tensor, intrinsics: Tensor, size: int, near: float) -> Tensor:
    """What `gaussians.draw` gives.

    Args:
        extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3] (for an image of size 1), on the device of the Gaussians.
        size: pixels per side.
        near: camera z of centres that are left out, object units.

    Returns:
        [K, size, size, 4] float32: rgb in front of black, and opacity.
    """
    from gsplat import rasterization

    pixels = intrinsics.new_tensor([size, size, 1.0])[:, None]
    color, alpha, _ = rasterization(
        means=gaussians.xyz.float(),
        quats=gaussians.rotation.float(),
        scales=gaussians.scaling.float(),
        opacities=gaussians.opacity[:, 0].float(),
        colors=gaussians.colors.float(),
        viewmats=extrinsics.contiguous(),
        Ks=(intrinsics * pixels).contiguous(),
        width=size,
        height=size,
        near_plane=near,
        eps2d=gaussians.kernel_2d,
        rasterize_mode="antialiased",
        packed=False,
    )
    return torch.cat([color, alpha], dim=-1)
