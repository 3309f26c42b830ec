"""The values that the stages of a run hand to each other.

Plain dataclasses: no behaviour beyond activations, device moves and counting. Object space is Z-up inside
the cube [-0.5, 0.5]^3 and assets face -Y (see trellis.md section 7.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Value of the zeroth real spherical harmonic; rgb = 0.5 + SH_C0 * dc."""

GREY = 0.8
"""Colour of meshes without colours, 0..1."""


def _moved(value: Any, *args: Any, **kwargs: Any) -> Any:
    """A copy of a dataclass with every tensor field passed through `.to`; dtypes of integers are kept."""
    changes = {}
    for item in fields(value):
        entry = getattr(value, item.name)
        if isinstance(entry, Tensor):
            moved = entry.to(*args, **kwargs)
            changes[item.name] = moved if entry.is_floating_point() else entry.to(moved.device)
    return replace(value, **changes)


@dataclass
class TokenGrid:
    """Image tokens of the encoder, or of the grid DiT that imitates it.

    Attributes:
        tokens: [B, N, C] float; N = 1 class token + R registers + H * W patches, patches row-major.
        height: patches per column H.
        width: patches per row W.
    """

    tokens: Tensor
    height: int = 0
    width: int = 0

    def to(self, *args: Any, **kwargs: Any) -> TokenGrid:
        """The same grid on another device or with another float dtype."""
        return _moved(self, *args, **kwargs)

    @property
    def patches(self) -> Tensor:
        """[B, H*W, C] patch tokens without class and register tokens."""
        return self.tokens[:, self.tokens.shape[1] - self.height * self.width :]


@dataclass
class Occupancy:
    """Occupied voxels of the structure stage.

    Attributes:
        coords: [V, 4] int32, rows (batch, x, y, z), each axis in 0..resolution-1, Z-up.
        resolution: voxels per axis.
    """

    coords: Tensor
    resolution: int = 0

    def to(self, *args: Any, **kwargs: Any) -> Occupancy:
        """The same voxels on another device."""
        return _moved(self, *args, **kwargs)

    def __len__(self) -> int:
        return self.coords.shape[0]


@dataclass
class SLat:
    """Structured latent: one feature vector per occupied voxel.

    Attributes:
        tensor: sparse.SparseTensor with feats [V, C] float and coords [V, 4] int32 (batch, x, y, z).
        resolution: voxels per axis.
    """

    tensor: Any
    resolution: int = 0

    @property
    def feats(self) -> Tensor:
        """[V, C] latent features."""
        return self.tensor.feats

    @property
    def coords(self) -> Tensor:
        """[V, 4] int32 voxel coordinates."""
        return self.tensor.coords


@dataclass
class Mesh:
    """Triangle mesh in object space.

    Attributes:
        vertices: [V, 3] float32, Z-up, about [-0.5, 0.5].
        faces: [F, 3] int64, counter-clockwise seen from outside.
        colors: [V, 3] float32 in 0..1, sRGB display-referred, or None.
        normals: [V, 3] float32 unit vectors, or None when they follow from the faces.
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor | None = None
    normals: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> Mesh:
        """The same mesh on another device or with another float dtype."""
        return _moved(self, *args, **kwargs)

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to draw."""
        return self.faces.shape[0] == 0


@dataclass
class Gaussians:
    """3D Gaussians of one object as the decoder stores them, with getters for the activated values.

    The stored fields are what the network emits after the layout split, see trellis.md section 6.2:
    positions are already inside the unit cube, the rotation multiplier is already applied.

    Attributes:
        raw_xyz: [G, 3] float, position in the unit cube [0, 1]^3 (may leave it by a quarter voxel).
        raw_features_dc: [G, 1, 3] float, spherical-harmonic DC colour.
        raw_scaling: [G, 3] float, before bias and activation.
        raw_rotation: [G, 4] float, (w, x, y, z), before (1, 0, 0, 0) is added.
        raw_opacity: [G, 1] float, before bias and sigmoid.
        aabb: origin and size of the box which the unit cube is mapped to.
        scaling_bias: scale in object units that a raw zero stands for.
        opacity_bias: opacity that a raw zero stands for.
        kernel_3d: smallest standard deviation, object units, added in quadrature.
        kernel_2d: variance in square pixels that a renderer adds on the screen.
        scaling_activation: "softplus" or "exp".
    """

    raw_xyz: Tensor
    raw_features_dc: Tensor
    raw_scaling: Tensor
    raw_rotation: Tensor
    raw_opacity: Tensor
    aabb: tuple[float, float, float, float, float, float] = (-0.5, -0.5, -0.5, 1.0, 1.0, 1.0)
    scaling_bias: float = 4e-3
    opacity_bias: float = 0.1
    kernel_3d: float = 9e-4
    kernel_2d: float = 0.1
    scaling_activation: str = "softplus"

    def __len__(self) -> int:
        return self.raw_xyz.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """The same Gaussians on another device or with another float dtype."""
        return _moved(self, *args, **kwargs)

    @property
    def xyz(self) -> Tensor:
        """[G, 3] centres in object space."""
        box = self.raw_xyz.new_tensor(self.aabb)
        return self.raw_xyz * box[3:] + box[:3]

    @property
    def scaling(self) -> Tensor:
        """[G, 3] standard deviations along the local axes, object units."""
        if self.scaling_activation == "softplus":
            sigma = F.softplus(self.raw_scaling + math.log(math.expm1(self.scaling_bias)))
        elif self.scaling_activation == "exp":
            sigma = torch.exp(self.raw_scaling + math.log(self.scaling_bias))
        else:
            raise ValueError(f"scaling_activation {self.scaling_activation!r} is neither softplus nor exp")
        return torch.sqrt(sigma.square() + self.kernel_3d**2)

    @property
    def quaternion(self) -> Tensor:
        """[G, 4] (w, x, y, z) rotation before normalisation."""
        return self.raw_rotation + self.raw_rotation.new_tensor([1.0, 0.0, 0.0, 0.0])

    @property
    def rotation(self) -> Tensor:
        """[G, 4] unit quaternions (w, x, y, z)."""
        return F.normalize(self.quaternion, dim=-1)

    @property
    def opacity(self) -> Tensor:
        """[G, 1] opacity in 0..1."""
        return torch.sigmoid(self.raw_opacity + math.log(self.opacity_bias / (1 - self.opacity_bias)))

    @property
    def features(self) -> Tensor:
        """[G, 1, 3] spherical-harmonic coefficients (degree 0)."""
        return self.raw_features_dc

    @property
    def colors(self) -> Tensor:
        """[G, 3] display-referred rgb, not below 0 (values over 1 are possible)."""
        return (0.5 + SH_C0 * self.raw_features_dc[:, 0]).clamp(min=0)

    @property
    def rotation_matrix(self) -> Tensor:
        """[G, 3, 3] rotation from local to object axes."""
        w, x, y, z = self.rotation.unbind(-1)
        rows = [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ]
        return torch.stack(rows, dim=-1).reshape(-1, 3, 3)

    @property
    def covariance(self) -> Tensor:
        """[G, 6] upper triangle xx, xy, xz, yy, yz, zz of the covariance, object units squared."""
        factor = self.rotation_matrix * self.scaling[:, None, :]
        full = factor @ factor.transpose(1, 2)
        return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]


@dataclass
class RadianceField:
    """Density and colour inside the occupied voxels of one object, as sums of tri-vector products.

    A voxel holds R components. Component k at the local position r in [0, 1]^3 has the value
    tau_k = trivec[k, x](r_x) * trivec[k, y](r_y) * trivec[k, z](r_z), each factor interpolated between D values at
    the middles of D equal parts. See trellis.md section 6.3; `render.radiance.field_at` evaluates it.

    Attributes:
        coords: [L, 3] int32, (x, y, z) of every voxel in 0..resolution-1.
        trivec: [L, R, 3, D] float, the network's values plus one.
        density: [L, R] float, factors of tau; density per object unit is softplus(sum_k density_k tau_k).
        features_dc: [L, R, 1, 3] float; rgb = sigmoid(SH_C0 * sum_k features_dc_k tau_k).
        resolution: voxels per axis, a power of two for the public models (leaves of an octree).
        aabb: origin and size of the box which the unit cube is mapped to.
    """

    coords: Tensor
    trivec: Tensor
    density: Tensor
    features_dc: Tensor
    resolution: int
    aabb: tuple[float, float, float, float, float, float] = (-0.5, -0.5, -0.5, 1.0, 1.0, 1.0)

    def __len__(self) -> int:
        return self.coords.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> RadianceField:
        """The same field on another device or with another float dtype."""
        return _moved(self, *args, **kwargs)

    @property
    def position(self) -> Tensor:
        """[L, 3] voxel centres in the unit cube [0, 1]^3."""
        return (self.coords.float() + 0.5) / self.resolution

    @property
    def depth(self) -> Tensor:
        """[L, 1] uint8 octree depth, log2 of the resolution."""
        return torch.full_like(self.coords[:, :1], self.resolution.bit_length() - 1, dtype=torch.uint8)
