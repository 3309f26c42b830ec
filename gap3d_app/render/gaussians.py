"""3D Gaussians to pictures in plain torch, on CPU and CUDA, differentiable (trellis.md section 7.2).

Every Gaussian is projected to a screen ellipse, expanded into the pixels where its opacity counts, and the
flat list of fragments is ordered by (pixel, depth). Transmittance is then a segmented running product, taken as a
running sum of logarithms, so there is no loop over Gaussians, pixels or tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gap3d_app.render import with_gsplat
from gap3d_app.values import Gaussians

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
        square: [G] value of d' conic d at which alpha falls to 1/255; not positive where nothing is seen.
        reach: [G] half height in pixels of the ellipse inside of which alpha is at least 1/255, else -1.
    """

    centre: Tensor
    conic: Tensor
    opacity: Tensor
    color: Tensor
    square: Tensor
    reach: Tensor


def render_gaussians(
    gaussians: Gaussians,
    extrinsics: Tensor,
    intrinsics: Tensor,
    size: int,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Pictures of a set of Gaussians: by gsplat where it is installed and no gradient is wanted, else by `draw`.

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
    if with_gsplat.applies(gaussians):
        pictures = with_gsplat.draw(gaussians, extrinsics, intrinsics, size, NEAR)
    else:
        pictures = draw(gaussians, extrinsics, intrinsics, size)
    rgb = pictures[..., :3] + (1 - pictures[..., 3:]) * torch.tensor(background, device=device)
    return torch.cat([rgb, pictures[..., 3:]], dim=-1)


def draw(gaussians: Gaussians, extrinsics: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """[K, size, size, 4] float32: rgb in front of black and opacity, for cameras [K, 4, 4] and [K, 3, 3].

    The reference composites whole 16 x 16 tiles and cuts a Gaussian at tiles beyond 3 sigma; here every pixel
    whose alpha is at least 1/255 counts.
    """
    covariance = gaussians.covariance[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    pictures = []
    for view in range(extrinsics.shape[0]):
        splats = project_gaussians(gaussians, covariance, extrinsics[view], intrinsics[view], size)
        pictures.append(composite(splats, size).reshape(size, size, 4))
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
        reach = torch.where(square > 0, (square.clamp(min=0) * yy).sqrt(), -1.0)
    return Splats(centre, conic, opacity, gaussians.colors[order].float(), square, reach)


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
    # fragments of a pixel are neighbours, so this sum needs no atomics and repeats exactly
    return torch.segment_reduce(drawn * weight[:, None], "sum", lengths=count, unsafe=True)


def _fragments(splats: Splats, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splat number, pixel and alpha of every fragment that counts, ordered by splat.

    Each splat becomes the rows it touches, each row the span of pixels inside the ellipse.
    """
    with torch.no_grad():
        low = (splats.centre[:, 1] - splats.reach).clamp(-1, size).ceil().clamp(min=0)
        high = (splats.centre[:, 1] + splats.reach).clamp(-1, size).floor().clamp(max=size - 1)
        splat, row = _expand(low, torch.where(splats.reach < 0, -1.0, high))
        x, y, xx, xy, yy, square = _columns(
            torch.cat([splats.centre, splats.conic, splats.square[:, None]], dim=1), splat
        )
        dy = y - row
        # roots of xx dx^2 + 2 xy dx dy + yy dy^2 = square
        middle = x + xy * dy / xx
        half = ((xy * dy).square() - xx * (yy * dy * dy - square)).clamp(min=0).sqrt() / xx
        low = (middle - half).clamp(-1, size).ceil().clamp(min=0)
        high = (middle + half).clamp(-1, size).floor().clamp(max=size - 1)
        line, column = _expand(low, high)
        owner, row = splat.index_select(0, line), row.index_select(0, line)
        pixel = (row * size + column).int() if size < 4096 else row.long() * size + column.long()
    x, y, xx, xy, yy, opacity = _columns(
        torch.cat([splats.centre, splats.conic, splats.opacity[:, None]], dim=1), owner
    )
    dx, dy = x - column, y - row
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    alpha = (opacity * power.exp()).clamp(max=LARGEST_ALPHA)
    return owner, pixel, torch.where((power > 0) | (alpha < SMALLEST_ALPHA), 0.0, alpha)


def _expand(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the range and value, for every integer of the ranges low..high (float tensors [N])."""
    count = (high - low + 1).clamp(min=0).long()
    owner = torch.repeat_interleave(count)
    # value = low + position - first position of the range
    shift = low - (count.cumsum(0) - count).double()
    value = torch.arange(owner.shape[0], device=low.device, dtype=torch.float64) + shift.index_select(0, owner)
    return owner, value.float()


def _columns(table: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """The columns of rows `index` of a table [N, C]."""
    return table.index_select(0, index).unbind(-1)
