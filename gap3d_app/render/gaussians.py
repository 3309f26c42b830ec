"""3D Gaussians to pictures in plain torch, on CPU and CUDA, differentiable (trellis.md section 7.2).

Every Gaussian is projected to a screen ellipse, expanded into the pixels where its opacity counts, and the
flat list of fragments is ordered by (pixel, depth). Transmittance is then a segmented running product, taken as a
running sum of logarithms, so there is no loop over Gaussians, pixels or tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..values import Gaussians

NEAR = 0.2  # object units; nearer centres are culled
SMALLEST_ALPHA = 1 / 255
LARGEST_ALPHA = 0.99
SMALLEST_TRANSMITTANCE = 1e-4
DETERMINANT_FLOOR = 1e-6
FIELD_MARGIN = 1.3  # the projection's slope is taken no further outside the view than this


@dataclass
class Splats:
    """Gaussians of one view in screen space, sorted front to back.

    Attributes:
        centre: [G, 2] pixels, pixel centres at integers.
        conic: [G, 3] inverse covariance (xx, xy, yy), 1 / pixel^2.
        opacity: [G] in 0..1, compensated for the screen-space filter.
        color: [G, 3].
        reach: [G, 2] half extents in pixels of the box outside of which alpha is below 1/255.
    """

    centre: Tensor
    conic: Tensor
    opacity: Tensor
    color: Tensor
    reach: Tensor


def render_gaussians(
    gaussians: Gaussians,
    extrinsics: Tensor,
    intrinsics: Tensor,
    size: int,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Pictures of a set of Gaussians.

    The reference composites whole 16 x 16 tiles and cuts a Gaussian at tiles beyond 3 sigma; here every pixel
    whose alpha is at least 1/255 counts.

    Args:
        extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3], or one view without the first axis.
        size: pixels per side.
        background: rgb behind the object.

    Returns:
        [K, size, size, 4] float32: rgb over the background (may exceed 1 where Gaussians do) and opacity.
    """
    device = gaussians.raw_xyz.device
    extrinsics = extrinsics.to(device).reshape(-1, 4, 4)
    intrinsics = intrinsics.to(device).reshape(-1, 3, 3)
    covariance = gaussians.covariance[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    behind = torch.tensor(background, device=device)
    pictures = []
    for view in range(extrinsics.shape[0]):
        splats = project_gaussians(gaussians, covariance, extrinsics[view], intrinsics[view], size)
        picture = composite(splats, size)
        rgb = picture[:, :3] + (1 - picture[:, 3:]) * behind
        pictures.append(torch.cat([rgb, picture[:, 3:]], dim=1).reshape(size, size, 4))
    return torch.stack(pictures)


def project_gaussians(
    gaussians: Gaussians, covariance: Tensor, extrinsics: Tensor, intrinsics: Tensor, size: int
) -> Splats:
    """Elliptical weighted average projection with the mip-splatting screen filter.

    Args:
        covariance: [G, 3, 3] in object units squared.
        extrinsics, intrinsics: [4, 4], [3, 3].
        size: pixels per side.
    """
    rotation = extrinsics[:3, :3]
    camera = gaussians.xyz.float() @ rotation.T + extrinsics[:3, 3]
    front = (camera[:, 2] > NEAR).nonzero(as_tuple=True)[0]
    order = front[camera[front, 2].detach().argsort(stable=True)]
    camera, covariance = camera[order], covariance[order].float()
    z = camera[:, 2]
    focal = torch.stack([intrinsics[0, 0], intrinsics[1, 1]])
    slope = camera[:, :2] / z[:, None]
    limit = FIELD_MARGIN * 0.5 / focal
    bounded = torch.minimum(torch.maximum(slope, -limit), limit)
    pixels = focal * size
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([pixels[0] / z, zero, -pixels[0] * bounded[:, 0] / z], dim=-1),
            torch.stack([zero, pixels[1] / z, -pixels[1] * bounded[:, 1] / z], dim=-1),
        ],
        dim=1,
    )
    to_screen = jacobian @ rotation
    screen = to_screen @ covariance @ to_screen.mT
    xx, xy, yy = screen[:, 0, 0], screen[:, 0, 1], screen[:, 1, 1]
    before = (xx * yy - xy * xy).clamp(min=DETERMINANT_FLOOR)
    xx, yy = xx + gaussians.kernel_2d, yy + gaussians.kernel_2d
    determinant = xx * yy - xy * xy
    after = determinant.clamp(min=DETERMINANT_FLOOR)
    shrink = (before / (after + 1e-6) + 1e-6).sqrt()
    visible = (before > DETERMINANT_FLOOR) & (after > DETERMINANT_FLOOR)
    opacity = gaussians.opacity[order, 0].float() * torch.where(visible, shrink, 0.0)
    conic = torch.stack([yy, -xy, xx], dim=-1) / after[:, None]
    centre = (slope * focal + intrinsics[:2, 2]) * size - 0.5
    with torch.no_grad():
        # alpha >= 1/255 inside the ellipse d' conic d <= 2 ln(255 opacity)
        square = 2 * torch.log((opacity / SMALLEST_ALPHA).clamp(min=1e-9))
        reach = (square.clamp(min=0)[:, None] * torch.stack([xx, yy], dim=-1)).sqrt()
        reach = torch.where((square > 0)[:, None], reach, -1.0)
    return Splats(centre, conic, opacity, gaussians.colors[order].float(), reach)


def composite(splats: Splats, size: int) -> Tensor:
    """[size * size, 4] premultiplied rgb and opacity of splats sorted front to back."""
    owner, pixel, alpha = _fragments(splats, size)
    order = torch.sort(pixel, stable=True).indices  # fragments come front to back already
    owner, alpha, pixel = (v.index_select(0, order) for v in (owner, alpha, pixel))
    count = torch.bincount(pixel, minlength=size * size)
    # float64: the sum runs over the whole picture and its segments are differences
    total = torch.log1p(-alpha.double()).cumsum(0)
    before = torch.cat([total.new_zeros(1), total[:-1]])
    start = before.index_select(0, (count.cumsum(0) - count).index_select(0, pixel))
    through = torch.exp(before - start).float()
    # a fragment that would leave less than the smallest transmittance ends its pixel and is not drawn
    alive = (total - start).exp() >= SMALLEST_TRANSMITTANCE
    weight = torch.where(alive, alpha * through, 0.0)
    drawn = torch.cat([splats.color.index_select(0, owner), torch.ones_like(weight[:, None])], dim=1)
    picture = torch.zeros(size * size, 4, device=alpha.device)
    return picture.index_add(0, pixel, drawn * weight[:, None])


def _fragments(splats: Splats, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splat number, pixel and alpha of every fragment that counts, ordered by splat."""
    with torch.no_grad():
        low = (splats.centre - splats.reach).clamp(-1, size).ceil().clamp(min=0).long()
        high = (splats.centre + splats.reach).clamp(-1, size).floor().clamp(max=size - 1).long()
        extent = (high - low + 1).clamp(min=0)
        extent[splats.reach[:, 0] < 0] = 0
        count = extent[:, 0] * extent[:, 1]
        owner = torch.repeat_interleave(count)
        index = torch.arange(owner.shape[0], device=owner.device)
        index = index - (count.cumsum(0) - count).index_select(0, owner)
        width = extent[:, 0].index_select(0, owner)
        row = torch.div(index, width.clamp(min=1), rounding_mode="floor")
        column = index - row * width + low[:, 0].index_select(0, owner)
        row = row + low[:, 1].index_select(0, owner)
        data = torch.cat([splats.centre, splats.conic, splats.opacity[:, None]], dim=1)
        kept = _alpha(data.index_select(0, owner), column, row) >= SMALLEST_ALPHA
        kept = kept.nonzero(as_tuple=True)[0]
        owner, row, column = (v.index_select(0, kept) for v in (owner, row, column))
    # once more with gradients, for the fragments that are left
    data = torch.cat([splats.centre, splats.conic, splats.opacity[:, None]], dim=1)
    return owner, row * size + column, _alpha(data.index_select(0, owner), column, row)


def _alpha(data: Tensor, column: Tensor, row: Tensor) -> Tensor:
    x, y, xx, xy, yy, opacity = data.unbind(-1)
    dx, dy = x - column, y - row
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    return torch.where(power > 0, 0.0, opacity * power.exp()).clamp(max=LARGEST_ALPHA)
