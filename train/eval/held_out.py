"""Held-out assets, prompts and edits of the evaluation, each a function of (seed, index).

All are of split "test" of train.data.procedural, whose (category, colour) pairs never occur in training, and of
another seed than the packed test set that training watches.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gap3d_app.values import Mesh
from train.data.fields import SurfaceFields, fields_to_mesh, surface_fields
from train.data.packed import Voxels, quantized_surface
from train.data.procedural.captions import captions
from train.data.procedural.edits import sample_edit
from train.data.procedural.look import COLORS
from train.data.procedural.spec import AssetSpec, build, sample_spec
from train.data.views import Cameras, Views, condition_cameras, render_views
from train.eval.geometry_metrics import voxel_grid

JUDGED_VIEWS = 5  # as many as training packs of an asset; number 0 is the canonical one


def camera_seed(seed: int, number: int) -> int:
    """Seed of the cameras and lights under which asset `number`, or what was made for it, is seen."""
    return seed * 1_000_003 + number


def some(cameras: Cameras, views: slice) -> Cameras:
    """A part of the cameras."""
    return Cameras(*(getattr(cameras, k)[views] for k in cameras.__dataclass_fields__))


def look_at_mesh(mesh: Mesh, seed: int, views: slice = slice(None), size: int = 224) -> Views:
    """Condition views of any mesh, made as for training."""
    return render_views(mesh, some(condition_cameras(seed, JUDGED_VIEWS, mesh), views), size)


def unit_pictures(views: Views) -> Tensor:
    """[n, 3, S, S] float in 0..1, premultiplied on black."""
    return views.rgb.permute(0, 3, 1, 2).float() / 255


def cut_out_picture(views: Views, number: int = 0) -> Image.Image:
    """One view as an RGBA picture with straight alpha, as a person would hand it in."""
    alpha = views.alpha[number].cpu().numpy()
    rgb = views.rgb[number].cpu().numpy().astype(np.float32)
    straight = rgb * (255 / np.maximum(alpha, 1))[..., None]
    return Image.fromarray(np.dstack([straight.round().clip(0, 255).astype(np.uint8), alpha]))


def on_white(views: Views, number: int = 0) -> Image.Image:
    """One view on white, for contact sheets."""
    alpha = views.alpha[number].int()[..., None]
    return Image.fromarray((views.rgb[number].int() + 255 - alpha).clamp(0, 255).byte().cpu().numpy())


class HeldOutAsset:
    """One asset: its description, mesh and measured surface, made when asked for."""

    def __init__(self, spec: AssetSpec, cameras: int, device: torch.device, resolution: int):
        self.spec, self.cameras, self.device, self.resolution = spec, cameras, device, resolution
        self._coords: Tensor | None = None

    @cached_property
    def mesh(self) -> Mesh:
        """The coloured source mesh."""
        return build(self.spec).to(self.device)

    def fields(self) -> SurfaceFields:
        """Surface fields; only their voxels are kept, the rest is large."""
        fields = surface_fields(self.mesh, self.resolution)
        self._coords = fields.coords.long()
        return fields

    @property
    def coords(self) -> Tensor:
        """[V, 3] active voxels."""
        if self._coords is None:
            self.fields()
        return self._coords

    @property
    def occupancy(self) -> Tensor:
        """[R, R, R] bool."""
        return voxel_grid(self.coords, self.resolution)

    def surface(self) -> Mesh:
        """The true surface at the resolution of the decoders."""
        return fields_to_mesh(self.fields())

    def views(self, views: slice = slice(None), size: int = 224) -> Views:
        """Condition views."""
        return look_at_mesh(self.mesh, self.cameras, views, size)


@dataclass
class HeldOutPrompt:
    """A caption of an asset.

    Attributes:
        text: the caption.
        length: "short", "sentence" or "rich".
        names_color: whether the caption says the asset's main colour.
    """

    text: str
    length: str
    names_color: bool


@dataclass
class HeldOutEdit:
    """An edit pair: {"attribute", "from", "to"} is `change`."""

    source: HeldOutAsset
    target: HeldOutAsset
    instruction: str
    change: dict


def names_color(text: str, color: str) -> bool:
    """Whether the text holds the colour's name or a synonym as whole words."""
    words = (color, *COLORS[color].synonyms)
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def pack_voxels(fields: list[SurfaceFields]) -> Voxels:
    """Surface fields as the SLAT encoder reads them, with the rounding of the packed data sets."""
    rows: dict[str, list[Tensor]] = {"coords": [], "sdf": [], "colors": []}
    for number, f in enumerate(fields):
        stored = quantized_surface(f)
        stored["coords"] = torch.nn.functional.pad(stored["coords"].int(), (1, 0), value=number)
        for key, found in rows.items():
            found.append(stored[key])
    return Voxels.from_packed(**{key: torch.cat(found) for key, found in rows.items()})


class HeldOut:
    """Assets, prompts and edits by number."""

    def __init__(self, seed: int, device: torch.device, resolution: int):
        self.seed, self.device, self.resolution = seed, device, resolution
        self._assets: dict[int, HeldOutAsset] = {}

    def _wrap(self, spec: AssetSpec, number: int) -> HeldOutAsset:
        return HeldOutAsset(spec, camera_seed(self.seed, number), self.device, self.resolution)

    def asset(self, number: int) -> HeldOutAsset:
        """Asset `number`, the same object each time."""
        if number not in self._assets:
            self._assets[number] = self._wrap(sample_spec(self.seed, number, "test"), number)
        return self._assets[number]

    def prompt(self, number: int) -> HeldOutPrompt:
        """One caption of asset `number`; the three lengths take turns."""
        spec = self.asset(number).spec
        texts = captions(spec)
        # longest first: a third of them rich, a third sentences, the rest short
        text = texts[(number * 2 + number // 3 % 2) % len(texts)]
        kind = ("rich", "sentence", "short")[min(2, texts.index(text) * 3 // len(texts))]
        return HeldOutPrompt(text, kind, names_color(text, spec.color))

    def edit(self, number: int) -> HeldOutEdit:
        """Edit pair `number`; both sides are seen by the same cameras."""
        source, target, instruction, change = sample_edit(self.seed, number, "test")
        places = 500_000 + number
        return HeldOutEdit(self._wrap(source, places), self._wrap(target, places), instruction, change)
