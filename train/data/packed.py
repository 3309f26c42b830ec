"""Packed assets: everything the training stages read, held on the training device.

`train.data.pack` writes chunks (one safetensors and one JSON each); this class concatenates them. Per asset
i: `views` condition views (RGB premultiplied on black, uint8), labels, captions and a ragged run of active
voxels (rows `offsets[i]:offsets[i+1]`) with the signed distance on the 5x5x5 lattice corners of each voxel
and colours on every second of those corners (3x3x3).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

FINE = 4  # fine cells a coarse voxel's edge is cut into
LATTICE = FINE + 1


@dataclass
class Voxels:
    """A ragged batch of voxels: coords [N, 4] int32 (batch, x, y, z), sdf [N, 125] in units of half a coarse
    voxel (clipped to 1: what lies further is not measured), colors [N, 27, 3] in 0..1."""

    coords: Tensor
    sdf: Tensor
    colors: Tensor

    def features(self) -> Tensor:
        """Input of the SLAT encoder, [N, 206]: signed distances and centred colours of the surface."""
        return torch.cat([self.sdf, self.colors.flatten(1) * 2 - 1], dim=1)


class PackedAssets:
    """Assets of one packed folder, on `device`.

    Parts that a stage does not need are left on disk (`views=False`, `voxels=False`).
    """

    def __init__(self, folder: Path | str, device: str | torch.device, views: bool = True, voxels: bool = True):
        folder = Path(folder)
        chunk_files = sorted(folder.glob("chunk-*.safetensors"))
        if not chunk_files:
            raise FileNotFoundError(f"{folder} holds no chunks; make them with python -m train.data.pack")
        self.device = torch.device(device)
        self.resolution = 32
        parts: dict[str, list[Tensor]] = {}
        self.captions: list[list[str]] = []
        self.specs: list[dict] = []
        self.pairs: list[dict] = []
        for file in chunk_files:
            side = json.loads(file.with_suffix(".json").read_text())
            base = len(self.captions)
            self.captions += side["captions"]
            self.specs += side["specs"]
            for pair in side["pairs"]:
                self.pairs.append({**pair, "source": base + pair["source"], "target": base + pair["target"]})
            for key, value in load_file(file).items():
                is_view = key in ("views", "normals")
                is_voxel = key in ("coords", "sdf", "colors")
                if (is_view and not views) or (is_voxel and not voxels):
                    continue
                parts.setdefault(key, []).append(value.to(self.device))
        for key in list(parts):
            setattr(self, key, torch.cat(parts.pop(key)))
        self.counts: Tensor
        self.offsets = torch.zeros(len(self.captions) + 1, dtype=torch.int64, device=self.device)
        self.offsets[1:] = self.counts.long().cumsum(0)
        meta = json.loads((folder / "meta.json").read_text())
        self.categories: list[str] = meta["categories"]
        self.color_names: list[str] = meta["colors"]
        self.finishes: list[str] = meta["finishes"]

    def __len__(self) -> int:
        return len(self.captions)

    def images(self, ids: Tensor, view: Tensor | int) -> Tensor:
        """Condition views [B, 3, 224, 224] in 0..1 of assets `ids` [B]."""
        return self.views[ids, view].permute(0, 3, 1, 2).float() / 255

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(row numbers [N], batch index [N]) of the voxels of assets `ids`."""
        counts = self.offsets[ids + 1] - self.offsets[ids]
        batch = torch.repeat_interleave(torch.arange(len(ids), device=self.device), counts)
        ends = counts.cumsum(0)
        within = torch.arange(int(ends[-1]), device=self.device) - (ends - counts)[batch]
        return self.offsets[ids][batch] + within, batch

    def coords_of(self, ids: Tensor) -> Tensor:
        """Voxel coordinates [N, 4] int32 of assets `ids`."""
        rows, batch = self.rows(ids)
        return torch.cat([batch[:, None].int(), self.coords[rows].int()], dim=1)

    def voxels(self, ids: Tensor) -> Voxels:
        """The ragged voxel batch of assets `ids`."""
        rows, batch = self.rows(ids)
        return Voxels(
            coords=torch.cat([batch[:, None].int(), self.coords[rows].int()], dim=1),
            sdf=(self.sdf[rows].float() * (2 / 127)).clamp(-1, 1),
            colors=self.colors[rows].float() / 255,
        )

    def occupancy(self, ids: Tensor) -> Tensor:
        """Dense occupancy [B, 1, 32, 32, 32] of assets `ids`, 0 or 1 in float32."""
        rows, batch = self.rows(ids)
        x, y, z = self.coords[rows].long().unbind(1)
        grid = torch.zeros(len(ids), 1, *(self.resolution,) * 3, device=self.device)
        grid[batch, 0, x, y, z] = 1
        return grid
