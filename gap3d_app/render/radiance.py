"""Radiance fields of tri-vector voxels to pictures in plain torch, on CPU and CUDA (trellis.md section 7.3).

Every voxel is expanded into the pixels of its screen bounding box, each pair is cut to the stretch of the ray
inside the voxel, and the stretches of a ray are ordered by distance. They are marched in rounds, nearest first;
rays that nothing gets through any more drop out between the rounds. Bands of rows and passes of samples bound the
memory, whatever the size of picture and field.

The reference marches with one global step from a random start in every pixel, so its pictures are noisy. Here each
stretch is divided evenly into steps no longer than that one, sampled in their middles: the same integral, pictures
repeat exactly, and constant density gives exactly the transmittance of Beer and Lambert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.render.mesh import passes
from gap3d_app.values import SH_C0, RadianceField

SHADINGS = ("color", "depth")
NEAR = 0.2  # object units of camera z; voxels whose centres are nearer are culled
STEPS_PER_VALUE = 2  # steps along an axis per value of a voxel's vectors
LARGEST_ALPHA = 0.999  # of one sample
SMALLEST_TRANSMITTANCE = 1e-3  # a ray with less ends
STRETCHES_PER_ROUND = 4  # voxels of every ray that are marched before the rays that ended drop out
PAIRS_PER_BAND = {"cpu": 1 << 20, "cuda": 1 << 24}
SAMPLES_PER_PASS = {"cpu": 1 << 15, "cuda": 1 << 22}  # on a CPU, what stays in its cache


@dataclass
class March:
    """What the rays of K views collect.

    Attributes:
        color: [K, S, S, 3] float32, rgb in front of black, so at most alpha.
        alpha: [K, S, S] float32, share of light that the field stops.
        depth: [K, S, S] float32, mean camera z at which that share is stopped, object units; 0 where alpha is 0.
            (The reference's depth is this times alpha.)
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor


def render_radiance(
    field: RadianceField,
    extrinsics: Tensor,
    intrinsics: Tensor,
    size: int,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ssaa: int = 1,
    shading: str = "color",
) -> Tensor:
    """Pictures of a radiance field.

    Args:
        extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3], or one view without the first axis.
        size: pixels per side.
        background: rgb behind the object.
        ssaa: march at this multiple of `size` and average (the reference's videos use 4).
        shading: "color" or "depth" (camera z, object units).

    Returns:
        [K, size, size, 4] float32: rgb over the background, and opacity.

    Raises:
        ValueError: unknown shading.
    """
    if shading not in SHADINGS:
        raise ValueError(f"shading must be one of {SHADINGS}, got {shading!r}")
    seen = march(field, extrinsics, intrinsics, size * ssaa)
    depth = (seen.depth * seen.alpha)[..., None].expand(-1, -1, -1, 3)
    picture = torch.cat([seen.color if shading == "color" else depth, seen.alpha[..., None]], dim=-1)
    picture = F.avg_pool2d(picture.permute(0, 3, 1, 2), ssaa).permute(0, 2, 3, 1)
    rgb = picture[..., :3] + (1 - picture[..., 3:]) * picture.new_tensor(background)
    return torch.cat([rgb, picture[..., 3:]], dim=-1)


@torch.no_grad()
def march(field: RadianceField, extrinsics: Tensor, intrinsics: Tensor, size: int) -> March:
    """Collect colour, opacity and depth along the ray through every pixel centre.

    Args:
        extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3], or one view without the first axis.
        size: pixels S per side.
    """
    device = field.coords.device
    extrinsics = extrinsics.to(device).reshape(-1, 4, 4)
    intrinsics = intrinsics.to(device).reshape(-1, 3, 3)
    tables = tables_of(field)
    views = [_march_view(field, tables, *view, size) for view in zip(extrinsics, intrinsics, strict=True)]
    color, alpha, depth = torch.stack(views).reshape(-1, size, size, 5).split([3, 1, 1], dim=-1)
    return March(color, alpha[..., 0], (depth / alpha.clamp(min=1e-9))[..., 0])


@dataclass
class Tables:
    """A field laid out for look-ups.

    Attributes:
        vectors: [L * 3 * D, R] float32, rows ordered voxel, axis, place.
        factors: [L, 4, R] float32 of density, red, green and blue.
        length: D.
    """

    vectors: Tensor
    factors: Tensor
    length: int


def tables_of(field: RadianceField) -> Tables:
    """The look-up tables of a field."""
    color = SH_C0 * field.features_dc[:, :, 0].mT
    factors = torch.cat([field.density[:, None], color], dim=1).float().contiguous()
    rank, length = field.trivec.shape[1], field.trivec.shape[3]
    return Tables(field.trivec.float().permute(0, 2, 3, 1).reshape(-1, rank), factors, length)


def field_at(tables: Tables, voxel: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """Density and colour at P points.

    Args:
        voxel: [P] int64, number of the voxel.
        local: [P, 3] position in it, 0..1; beyond the first and last value the outer line goes on.

    Returns:
        density [P] per object unit and rgb [P, 3] in 0..1.
    """
    place = local * tables.length - 0.5
    base = place.floor().clamp(0, tables.length - 2)
    share = place - base
    row = (voxel[:, None] * 3 + torch.arange(3, device=voxel.device)) * tables.length + base.long()
    product = None
    for axis in range(3):
        ends = [tables.vectors.index_select(0, row[:, axis] + k) for k in (0, 1)]
        factor = torch.lerp(*ends, share[:, axis : axis + 1])
        product = factor if product is None else product * factor
    raw = (tables.factors.index_select(0, voxel) * product[:, None]).sum(-1)
    return F.softplus(raw[:, 0]), torch.sigmoid(raw[:, 1:])


@dataclass
class _Rays:
    """Rays of one view; t is the distance from the eye in object units, places are in the unit cube.

    Attributes:
        origin: [3].
        direction: [S * S, 3] change of place per t; no entry is zero.
        slope: [S * S] change of camera z per t.
    """

    origin: Tensor
    direction: Tensor
    slope: Tensor


@dataclass
class _Stretches:
    """Parts of rays inside voxels, Q of them: ordered by pixel, then by t.

    Attributes:
        voxel, pixel: [Q] int64.
        enter, leave: [Q] float32, in t.
        rank: [Q] int64, 0 for the first stretch of its pixel, and so on.
    """

    voxel: Tensor
    pixel: Tensor
    enter: Tensor
    leave: Tensor
    rank: Tensor

    def __getitem__(self, rows: Tensor | slice) -> _Stretches:
        return _Stretches(*(v[rows] for v in (self.voxel, self.pixel, self.enter, self.leave, self.rank)))


def _march_view(field: RadianceField, tables: Tables, extrinsics: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """[S * S, 5] colour, alpha and alpha times depth of one view ([4, 4] and [3, 3])."""
    light = torch.zeros(size * size, 5, device=extrinsics.device)
    voxel, low, high = _screen_boxes(field, extrinsics, intrinsics, size)
    rays = _rays(field, extrinsics, intrinsics, size)
    step = min(field.aabb[3:]) / (STEPS_PER_VALUE * tables.length * field.resolution)
    for first, last in _bands(low, high, size):
        waiting = _stretches(field, rays, voxel, low, high, (first, last), size)
        done = 0
        while waiting.voxel.numel():
            done += STRETCHES_PER_ROUND
            near = waiting.rank < done
            _composite(waiting[near], rays, field, tables, step, light)
            open_rays = 1 - light[:, 3] >= SMALLEST_TRANSMITTANCE
            waiting = waiting[~near & open_rays.index_select(0, waiting.pixel)]
    return light


def _rays(field: RadianceField, extrinsics: Tensor, intrinsics: Tensor, size: int) -> _Rays:
    device = extrinsics.device
    centre = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(
        (centre - intrinsics[1, 2]) / intrinsics[1, 1], (centre - intrinsics[0, 2]) / intrinsics[0, 0], indexing="ij"
    )
    camera = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    slope = 1 / torch.linalg.norm(camera, dim=-1)
    box = torch.tensor(field.aabb, device=device)
    direction = (camera * slope[:, None]) @ extrinsics[:3, :3] / box[3:]
    eye = -extrinsics[:3, :3].T @ extrinsics[:3, 3]
    still = direction.abs() < 1e-9  # parallel to a side: its planes are then met far away, on the right sides
    return _Rays((eye - box[:3]) / box[3:], torch.where(still, 1e-9, direction), slope)


def _screen_boxes(
    field: RadianceField, extrinsics: Tensor, intrinsics: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels [N] that may be seen, with the first and last column and row [N, 2] of their screen boxes."""
    box = torch.tensor(field.aabb, device=extrinsics.device)
    corner = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], device=box.device)] * 3)
    unit = (field.coords[:, None].float() + corner) / field.resolution
    camera = (unit * box[3:] + box[:3]) @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    voxel = (camera[..., 2].mean(1) > NEAR).nonzero(as_tuple=True)[0]
    camera = camera.index_select(0, voxel)
    image = camera @ intrinsics.T
    pixels = image[..., :2] / image[..., 2:].clamp(min=1e-6) * size - 0.5
    low, high = pixels.amin(1).ceil().clamp(0, size), pixels.amax(1).floor().clamp(-1, size - 1)
    behind = (camera[..., 2] < 1e-3).any(1, keepdim=True)  # a box around the eye has no bounds on the screen
    low, high = torch.where(behind, 0.0, low).long(), torch.where(behind, size - 1.0, high).long()
    kept = (high >= low).all(1).nonzero(as_tuple=True)[0]
    return voxel[kept], low[kept], high[kept]


def _bands(low: Tensor, high: Tensor, size: int) -> list[tuple[int, int]]:
    """Ranges of rows in which the screen boxes hold a bounded number of pixels together (or one row alone)."""
    if not low.numel():
        return []
    width = high[:, 0] - low[:, 0] + 1
    change = width.new_zeros(size + 1)
    change.index_add_(0, low[:, 1], width).index_add_(0, high[:, 1] + 1, -width)
    return passes(change.cumsum(0)[:size], PAIRS_PER_BAND[low.device.type])


def _stretches(
    field: RadianceField, rays: _Rays, voxel: Tensor, low: Tensor, high: Tensor, band: tuple[int, int], size: int
) -> _Stretches:
    """Every stretch of a ray inside a voxel, for the pixels of rows band[0]..band[1]-1."""
    top, bottom = low[:, 1].clamp(min=band[0]), high[:, 1].clamp(max=band[1] - 1)
    width = high[:, 0] - low[:, 0] + 1
    count = width * (bottom - top + 1).clamp(min=0)
    owner = torch.repeat_interleave(count)
    index = torch.arange(owner.shape[0], device=owner.device) - (count.cumsum(0) - count).index_select(0, owner)
    width = width.index_select(0, owner)
    row = torch.div(index, width, rounding_mode="floor")
    column = index - row * width + low[:, 0].index_select(0, owner)
    pixel = (row + top.index_select(0, owner)) * size + column
    voxel = voxel.index_select(0, owner)
    enter = torch.zeros(voxel.shape, device=voxel.device)
    leave = torch.full_like(enter, torch.inf)
    for axis in range(3):
        corner, speed = field.coords[:, axis].index_select(0, voxel), rays.direction[:, axis].index_select(0, pixel)
        # neighbours compute their shared plane alike, so stretches meet without gaps
        sides = [((corner + k) / field.resolution - rays.origin[axis]) / speed for k in (0, 1)]
        enter = torch.maximum(enter, torch.minimum(*sides))
        leave = torch.minimum(leave, torch.maximum(*sides))
    kept = (leave > enter).nonzero(as_tuple=True)[0]
    pixel, enter = pixel[kept], enter[kept]
    # bits of a float that is not negative order like the float
    order = torch.argsort((pixel << 32) | enter.view(torch.int32).long(), stable=True)
    kept, pixel, enter = kept[order], pixel[order], enter[order]
    amount = torch.unique_consecutive(pixel, return_counts=True)[1]
    start = torch.repeat_interleave(amount.cumsum(0) - amount, amount)
    rank = torch.arange(pixel.shape[0], device=pixel.device) - start
    return _Stretches(voxel[kept], pixel, enter, leave[kept], rank)


def _composite(
    stretches: _Stretches, rays: _Rays, field: RadianceField, tables: Tables, step: float, light: Tensor
) -> None:
    """March along stretches ordered by pixel and t, and add what they give to `light` [S * S, 5]."""
    count = ((stretches.leave - stretches.enter) / step).ceil().clamp(min=1).long()
    if not count.numel():
        return
    for first, last in passes(count, SAMPLES_PER_PASS[light.device.type]):
        part, number = stretches[first:last], count[first:last]
        owner = torch.repeat_interleave(number)
        index = torch.arange(owner.shape[0], device=owner.device) - (number.cumsum(0) - number).index_select(0, owner)
        length = ((part.leave - part.enter) / number).index_select(0, owner)
        t = part.enter.index_select(0, owner) + (index + 0.5) * length
        voxel, pixel = part.voxel.index_select(0, owner), part.pixel.index_select(0, owner)
        place = rays.origin + t[:, None] * rays.direction.index_select(0, pixel)
        local = place * field.resolution - field.coords.index_select(0, voxel)
        density, rgb = field_at(tables, voxel, local)
        alpha = (1 - torch.exp(-density * length)).clamp(max=LARGEST_ALPHA)
        pixels, run = torch.unique_consecutive(pixel, return_counts=True)
        through = _transmittance(alpha, run) * (1 - light[:, 3]).index_select(0, pixel)
        weight = torch.where(through >= SMALLEST_TRANSMITTANCE, through * alpha, 0.0)
        z = t * rays.slope.index_select(0, pixel)
        gains = torch.cat([rgb, torch.ones_like(z)[:, None], z[:, None]], dim=1) * weight[:, None]
        # samples of a pixel are neighbours, so this sum needs no atomics and repeats exactly
        light[pixels] += torch.segment_reduce(gains, "sum", lengths=run, unsafe=True)


def _transmittance(alpha: Tensor, run: Tensor) -> Tensor:
    """[P] share of light that reaches each sample, of runs of samples that lie on the same ray."""
    # float64: the sum runs over all rays and its segments are differences
    total = torch.log1p(-alpha.double()).cumsum(0)
    before = torch.cat([total.new_zeros(1), total[:-1]])
    start = before.index_select(0, run.cumsum(0) - run)
    return torch.exp(before - torch.repeat_interleave(start, run)).float()
