"""Packed assets: everything the training stages read, held on the training device.

`train.data.pack` writes chunks (one safetensors and one JSON each); this class concatenates them. Per asset
i: `views` condition views (RGB premultiplied on black, uint8), labels, captions and a ragged run of active
voxels (rows `offsets[i]:offsets[i+1]`) with the signed distance on the 5x5x5 lattice corners of each voxel
and colours on every second of those corners (3x3x3). A label of -1 is not known.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from train.data.fields import SurfaceFields

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

    @classmethod
    def from_packed(cls, coords: Tensor, sdf: Tensor, colors: Tensor) -> "Voxels":
        """Undo `quantized_surface`: sdf [N, 125] int8, colors [N, 27, 3] uint8; coords stay as they are."""
        return cls(coords, (sdf.float() * (2 / 127)).clamp(-1, 1), colors.float() / 255)


SURFACE = ("sdf", "colors")
COLOR_STEP = 2  # colours are kept on every second lattice corner
READERS = 4  # chunks on their way to the device at a time


def quantized_surface(fields: SurfaceFields) -> dict[str, Tensor]:
    """A surface as it is stored: coords [V, 3] uint8, sdf [V, 125] int8 (127 is one coarse voxel), colors
    [V, 27, 3] uint8."""
    colors = fields.colors.view(-1, LATTICE, LATTICE, LATTICE, 3)[:, ::COLOR_STEP, ::COLOR_STEP, ::COLOR_STEP]
    return {
        "coords": fields.coords.to(torch.uint8),
        "sdf": (fields.sdf.float() * 127).round().to(torch.int8),
        "colors": colors.reshape(len(colors), -1, 3),
    }


class PackedAssets:
    """Assets of one packed folder, on `device`.

    `pairs` are edits between assets that are there; `told` holds, per asset, instructions and the specs that they lead
    to, which were never built. What a stage does not need stays on disk: `views` is how many of the condition views are
    read (view 0 is the canonical one), `geometry` reads the dense view targets, `surface` the distances and colours of
    voxels.
    """

    def __init__(
        self,
        folder: Path | str,
        device: str | torch.device,
        views: int = 0,
        geometry: bool = False,
        surface: bool = False,
    ):
        folder = Path(folder)
        files = sorted(folder.glob("chunk-*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no chunks; make them with python -m train.data.pack")
        meta = json.loads((folder / "meta.json").read_text())
        self.categories: list[str] = meta["categories"]
        self.color_names: list[str] = meta["colors"]
        self.finishes: list[str] = meta["finishes"]
        self.device = torch.device(device)
        self.resolution = 32
        self.captions: list[list[str]] = []
        self.specs: list[dict] = []
        self.pairs: list[dict] = []
        self.told: list[list[tuple[str, dict]]] = []
        for file in files:
            side = json.loads(file.with_suffix(".json").read_text())
            base = len(self.captions)
            self.captions += side["captions"]
            self.specs += side["specs"]
            self.told += side["told"]
            for pair in side["pairs"]:
                self.pairs.append({**pair, "source": base + pair["source"], "target": base + pair["target"]})
        wanted = {"counts", "category", "color", "finish", "coords"}
        wanted |= {"views"} if views else set()
        wanted |= {"geometry"} if geometry else set()
        wanted |= set(SURFACE) if surface else set()
        self._read(files, wanted, views)
        self.offsets = torch.zeros(len(self.captions) + 1, dtype=torch.int64, device=self.device)
        self.offsets[1:] = self.counts.long().cumsum(0)

    def _read(self, files: list[Path], wanted: set[str], views: int) -> None:
        """Fill preallocated tensors chunk by chunk, several at once, so that loading needs no second copy."""

        def part(chunk, key: str) -> Tensor:
            rows = chunk.get_slice(key)
            return rows[:, :views] if key in ("views", "geometry") else rows[:]

        ends: list[dict[str, int]] = [dict.fromkeys(wanted, 0)]
        for file in files:
            with safe_open(file, "pt") as chunk:
                ends.append({key: ends[-1][key] + chunk.get_slice(key).get_shape()[0] for key in wanted})
        with safe_open(files[0], "pt") as chunk:
            for key in wanted:
                like = part(chunk, key)
                whole = torch.empty((ends[-1][key], *like.shape[1:]), dtype=like.dtype, device=self.device)
                setattr(self, key, whole)

        def copy(file: Path, first: dict[str, int], last: dict[str, int]) -> None:
            with safe_open(file, "pt") as chunk:
                for key in wanted:
                    getattr(self, key)[first[key] : last[key]].copy_(part(chunk, key))

        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(copy, files, ends, ends[1:]))

    def forget_surface(self) -> None:
        """Free the distances and colours."""
        for key in SURFACE:
            delattr(self, key)

    def draw(self, count: int, generator: torch.Generator, max_voxels: int | None = None) -> Tensor:
        """Random assets [count]; with `max_voxels` only those that have no more."""
        if max_voxels is None:
            return torch.randint(len(self), (count,), generator=generator, device=self.device)
        eligible = torch.nonzero(self.counts <= max_voxels).squeeze(1)
        return eligible[torch.randint(len(eligible), (count,), generator=generator, device=self.device)]

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
        coords = torch.cat([batch[:, None].int(), self.coords[rows].int()], dim=1)
        return Voxels.from_packed(coords, self.sdf[rows], self.colors[rows])

    def occupancy(self, ids: Tensor) -> Tensor:
        """Dense occupancy [B, 1, 32, 32, 32] of assets `ids`, 0 or 1 in float32."""
        rows, batch = self.rows(ids)
        x, y, z = self.coords[rows].long().unbind(1)
        grid = torch.zeros(len(ids), 1, *(self.resolution,) * 3, device=self.device)
        grid[batch, 0, x, y, z] = 1
        return grid
