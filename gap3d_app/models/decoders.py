"""Decoders of the structured latent: Gaussians, radiance field, mesh features (trellis.md sections 6.2 to 6.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gap3d_app.kernels import triton_runs
from gap3d_app.models.configs import SLatVaeConfig
from gap3d_app.models.slat_vae import SparseTransformerBase
from gap3d_app.nn.parallel import Beside
from gap3d_app.sparse.conv import SparseConv3d
from gap3d_app.sparse.norms import SparseGroupNorm32, SparseSiLU, norm_silu
from gap3d_app.sparse.resample import prepare_subdivision, subdivide_conv, subdivided_sites
from gap3d_app.sparse.tensor import SparseTensor
from gap3d_app.values import Gaussians, RadianceField

GAUSSIAN_FIELDS = (("_xyz", 3), ("_features_dc", 3), ("_scaling", 3), ("_rotation", 4), ("_opacity", 1))
"""Order of the output channels and values per Gaussian; each field holds all Gaussians of a voxel."""

GAUSSIAN_DEFAULTS = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True,
    "voxel_size": 1.5,
    "num_gaussians": 32,
    "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 4e-3,
    "opacity_bias": 0.1,
    "scaling_activation": "softplus",
}
"""Values of the released Gaussian decoder; `representation_config` overrides them."""

ROWS_AT_ONCE = 1 << 18
"""Of the surface's channels, in the last product of the mesh decoder."""

RADIANCE_DEFAULTS = {"rank": 16, "dim": 8}
"""Values of the released radiance-field decoder; `representation_config` overrides them."""


class SLatGaussianDecoder(SparseTransformerBase):
    """Latent [T, latent_channels] -> Gaussian channels [T, 14 G] (section 6.2)."""

    def __init__(self, config: SLatVaeConfig) -> None:
        super().__init__(config, config.latent_channels)
        self.representation = {**GAUSSIAN_DEFAULTS, **config.representation_config}
        count = self.representation["num_gaussians"]
        self.out_layer = nn.Linear(config.model_channels, count * sum(size for _, size in GAUSSIAN_FIELDS))
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)
        spread = self.representation["voxel_size"] if self.representation["perturb_offset"] else None
        self.register_buffer("offset_perturbation", offset_perturbation(count, spread))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Raw output channels, in the dtype of `x`."""
        return self.head(self.trunk(x), x.dtype)

    def to_representation(self, decoded: SparseTensor) -> list[Gaussians]:
        """Split the output channels of `forward` into one `Gaussians` per batch element."""
        fields = self._fields(decoded)
        r = self.representation
        return [
            Gaussians(
                **{f"raw{name}": values[rows].flatten(0, 1) for name, values in fields.items()},
                scaling_bias=r["scaling_bias"],
                opacity_bias=r["opacity_bias"],
                kernel_3d=r["3d_filter_kernel_size"],
                kernel_2d=r["2d_filter_kernel_size"],
                scaling_activation=r["scaling_activation"],
            )
            for rows in decoded.layout
        ]

    def _fields(self, decoded: SparseTensor) -> dict[str, Tensor]:
        r, resolution = self.representation, self.config.resolution
        count = r["num_gaussians"]
        parts = decoded.feats.split([count * size for _, size in GAUSSIAN_FIELDS], dim=1)
        fields = {}
        for (name, size), part in zip(GAUSSIAN_FIELDS, parts, strict=True):
            fields[name] = part.reshape(len(part), count, size) * r["lr"][name]
        centre = (decoded.coords[:, 1:].float() + 0.5) / resolution
        moved = fields["_xyz"] + self.offset_perturbation if r["perturb_offset"] else fields["_xyz"]
        offset = torch.tanh(moved) * (0.5 * r["voxel_size"] / resolution)
        fields["_xyz"] = centre[:, None] + offset
        fields["_features_dc"] = fields["_features_dc"].unsqueeze(-2)
        return fields


def offset_perturbation(count: int, voxel_size: float | None) -> Tensor:
    """[count, 3] raw offsets that spread the Gaussians of a voxel over its Hammersley points.

    Zero when `voxel_size` (reach of an offset, in voxels) is None.
    """
    if voxel_size is None:
        return torch.zeros(count, 3)
    points = [(i / count, _radical_inverse(i, 2), _radical_inverse(i, 3)) for i in range(count)]
    return torch.atanh((2 * torch.tensor(points, dtype=torch.float32) - 1) / voxel_size)


def _radical_inverse(index: int, base: int) -> float:
    value, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * weight
        weight /= base
    return value


class SLatRadianceFieldDecoder(SparseTransformerBase):
    """Latent [T, latent_channels] -> tri-vector channels [T, R (3 D + 1 + 3)] (section 6.3).

    `representation_config` gives the rank R and the length D of a vector.
    """

    def __init__(self, config: SLatVaeConfig) -> None:
        super().__init__(config, config.latent_channels)
        representation = {**RADIANCE_DEFAULTS, **config.representation_config}
        self.rank, self.dim = representation["rank"], representation["dim"]
        self.out_layer = nn.Linear(config.model_channels, sum(self._sizes))
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Channels of the vectors, of the densities and of the colours."""
        return self.rank * 3 * self.dim, self.rank, self.rank * 3

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Raw output channels, in the dtype of `x`."""
        return self.head(self.trunk(x), x.dtype)

    def to_representation(self, decoded: SparseTensor) -> list[RadianceField]:
        """Split the output channels of `forward` into one `RadianceField` per batch element."""
        trivec, density, color = decoded.feats.split(self._sizes, dim=1)
        trivec = trivec.reshape(-1, self.rank, 3, self.dim) + 1
        color = color.reshape(-1, self.rank, 1, 3)
        return [
            RadianceField(
                decoded.coords[rows, 1:], trivec[rows], density[rows], color[rows], self.config.resolution
            )
            for rows in decoded.layout
        ]


class SparseSubdivideBlock3d(nn.Module):
    """Doubles the resolution: norm, subdivision and two convolutions beside a 1x1x1 skip (section 6.4)."""

    def __init__(self, channels: int, out_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm32(num_groups, channels), SparseSiLU())
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels),
            SparseGroupNorm32(num_groups, out_channels),
            SparseSiLU(),
            SparseConv3d(out_channels, out_channels),
        )
        nn.init.zeros_(self.out_layers[3].conv.weight)
        nn.init.zeros_(self.out_layers[3].conv.bias)
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else SparseConv3d(channels, out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[T, C] -> [8T, C_out] at twice the resolution."""
        h = subdivide_conv(norm_silu(self.act_layers, x), self.out_layers[0])
        h = norm_silu(self.out_layers[1:3], h)  # what it was made of goes before the next layer takes memory
        h = self.out_layers[3](h)
        # The skip acts on single voxels, so it may run before its result is copied to the children.
        skip = self.skip_connection(x).feats[:, None]
        feats = h.feats.view(len(x), 8, -1)
        feats = feats + skip if torch.is_grad_enabled() else feats.add_(skip)
        return SparseTensor(feats.flatten(0, 1), sites=subdivided_sites(x.sites))


class SLatMeshDecoder(SparseTransformerBase):
    """Latent [T, latent_channels] -> surface channels [64 T, 101] at 4 times the resolution (section 6.4).

    53 channels when `representation_config["use_color"]` is false. What they mean: section 6.5.
    """

    torso = ("blocks", "upsample")

    def __init__(self, config: SLatVaeConfig) -> None:
        super().__init__(config, config.latent_channels)
        widths = config.upsample_channels or [config.model_channels // 4, config.model_channels // 8]
        self.upsample = nn.ModuleList(
            SparseSubdivideBlock3d(a, b)
            for a, b in zip([config.model_channels, *widths[:-1]], widths, strict=True)
        )
        self.out_channels = 101 if config.representation_config.get("use_color", False) else 53
        self.out_layer = nn.Linear(widths[-1], self.out_channels)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    @property
    def out_resolution(self) -> int:
        """Voxels per axis of the output."""
        return self.config.resolution * 2 ** len(self.upsample)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Surface channels, in the dtype of `x`; there is no final norm."""
        beside = Beside(x.device)
        h = self.trunk(x)
        if x.device.type == "cuda" and not torch.is_grad_enabled():
            with beside:  # maps of a million voxels, whose making often waits for its own results
                sites = x.sites
                for block in self.upsample:
                    sites = prepare_subdivision(sites, block.out_layers[0], block.out_layers[3])
        for block in self.upsample:
            h = block(h)
        return h.replace(self._surface(h.feats, x.dtype))

    def _surface(self, feats: Tensor, dtype: torch.dtype) -> Tensor:
        """The last layer; without gradients so that all features are never there a second time in `dtype`."""
        if torch.is_grad_enabled():
            return self.out_layer(feats.to(dtype))
        if feats.is_cuda and dtype == torch.float32 and triton_runs():
            from gap3d_app.nn import triton_product  # not every machine has triton

            if triton_product.applies(feats, self.out_layer.weight):
                return triton_product.wide_product(feats, self.out_layer.weight, self.out_layer.bias)
        surface = feats.new_empty(len(feats), self.out_channels, dtype=dtype)
        weight, bias = self.out_layer.weight.t(), self.out_layer.bias
        for rows, part in zip(feats.split(ROWS_AT_ONCE), surface.split(ROWS_AT_ONCE), strict=True):
            torch.addmm(bias, rows.to(dtype), weight, out=part)
        return surface
