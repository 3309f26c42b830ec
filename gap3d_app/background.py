"""Separating the pictured object from its background, offline.

The order of `cut_out`: an alpha channel that says something; a plain border flooded from the edge; the U2-Net
model when its file is already on this machine; else the whole picture, with a warning. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gap3d_app.errors import InputError

METHODS = ("auto", "alpha", "border", "u2net", "none")
OPAQUE = 204
"""A pixel belongs to the object when its alpha is above this (0.8 of 255, trellis.md section 1.1)."""

WORK_SIDE = 512  # longer side at which the flood runs; finer gives no better mask and costs seconds
BORDER_SPREAD = 12.0  # largest 95th percentile of the border's Lab distance that still counts as plain
AREA = (0.02, 0.95)  # share of the picture that a believable object covers
EXACT_SIDE = 1024
U2NET_MD5 = "60024c5c889badc19c04ad937298a77b"


@dataclass(frozen=True)
class CutOut:
    """A picture with its background made transparent.

    Attributes:
        rgba: PIL picture, mode RGBA, straight alpha.
        method: what found the object: "alpha", "border", "u2net" or "none".
        warning: a sentence for the person, or None.
        exact: made as TRELLIS does it, colours already multiplied by a found mask.
        original: the picture before that, where `rgba` no longer has its colours.
    """

    rgba: Image.Image
    method: str
    warning: str | None = None
    exact: bool = False
    original: Image.Image | None = None

    @property
    def whole(self) -> Image.Image:
        """The picture (RGB) that the object was cut out of; its own transparency is black, with `exact` dropped."""
        picture = self.rgba if self.original is None else self.original
        if self.method == "alpha" and not self.exact:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
        return picture.convert("RGB")

    @property
    def sha256(self) -> str:
        """Hash (hex) of size and pixels; the recipe names the picture by it."""
        digest = hashlib.sha256(f"{self.rgba.width}x{self.rgba.height}:".encode())
        digest.update(self.rgba.tobytes())
        return digest.hexdigest()


def cut_out(image: Image.Image, method: str = "auto", exact: bool = False) -> CutOut:
    """Find the object in a picture.

    Args:
        image: 8-bit RGB or RGBA picture as `prompt.open_image` returns it.
        method: "auto" for the order above, or one of "alpha", "border", "u2net", "none" alone.
        exact: what TRELLIS does (trellis.md section 1.1): any transparency counts; otherwise the larger side is
            reduced to 1,024 pixels, U2-Net comes before the plain border, and colours are multiplied by the mask,
            which darkens soft edges a second time when the picture goes on black.

    Raises:
        InputError: nothing in the picture is opaque, or the one method asked for cannot work here.
    """
    if method not in METHODS:
        raise InputError(f"Background removal {method!r} does not exist; choose one of {', '.join(METHODS)}.")
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
        if alpha.max() <= OPAQUE:
            raise InputError(
                f"The picture has no opaque pixel (largest alpha {alpha.max()} of 255, more than {OPAQUE} is "
                "needed); use a picture in which the object is visible."
            )
        # Rounded corners or one stray pixel are not a cut-out, so nearly full coverage does not count.
        if method == "alpha" or (method == "auto" and (exact or (alpha > OPAQUE).mean() <= 0.99)):
            return CutOut(image, "alpha", exact=exact)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if method == "alpha":
        raise InputError("The picture has no transparency; choose another background removal.")
    original, image = (image, _reduced(image)) if exact else (None, image)
    finders = {"border": _border_mask, "u2net": _u2net_mask}
    for name in ("u2net", "border") if exact else ("border", "u2net"):
        mask = finders[name](image) if method in ("auto", name) else None
        if mask is not None:
            return CutOut(_masked(image, mask, multiply=exact), name, exact=exact, original=original)
        if method == name:
            raise InputError(f"{_NO_MASK[name]}; choose another background removal.")
    whole = image.convert("RGBA")
    if method == "none":
        return CutOut(whole, "none", exact=exact)
    return CutOut(
        whole, "none",
        "The background could not be removed, so the whole picture is taken as the object; a picture with a "
        "plain or transparent background works better.",
        exact,
    )


_NO_MASK = {
    "border": "The picture's border is not of one colour, or what it surrounds is too small or too large",
    "u2net": "The model u2net.onnx (or onnxruntime) is not installed here, or it found no object",
}


def on_checkerboard(rgba: Image.Image, cell: int = 12) -> Image.Image:
    """The picture over a grey checkerboard, as RGB of the same size, for showing a cut-out."""
    y, x = np.indices((rgba.height, rgba.width), sparse=True)
    board = np.where((x // cell + y // cell) % 2, 205, 235).astype(np.uint8)
    back = Image.fromarray(board).convert("RGBA")
    return Image.alpha_composite(back, rgba.convert("RGBA")).convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    """The larger side at most 1,024 pixels, both cut to whole ones."""
    scale = EXACT_SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize(tuple(int(side * scale) for side in image.size), Image.Resampling.LANCZOS)


def _masked(image: Image.Image, mask: Image.Image, multiply: bool) -> Image.Image:
    """The picture with the mask as alpha; with `multiply` its colours are multiplied by the mask too."""
    rgba = image.convert("RGBA")
    if multiply:
        return Image.composite(rgba, Image.new("RGBA", rgba.size), mask)
    rgba.putalpha(mask)
    return rgba


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of sRGB values in 0..1, [..., 3]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375],
                       [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]], dtype=np.float32)
    xyz = linear @ (to_xyz / to_xyz.sum(1, keepdims=True)).T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (24389 / 27 / 116) + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _border_mask(image: Image.Image) -> Image.Image | None:
    """Object mask (mode L, size of the image) when the picture's border is plain, else None."""
    from scipy import ndimage

    scale = min(1.0, WORK_SIDE / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.convert("RGB").resize(size, Image.Resampling.BOX)
    lab = _lab(np.asarray(small, dtype=np.float32) / 255)
    edge = np.zeros(lab.shape[:2], dtype=bool)
    edge[:2], edge[-2:], edge[:, :2], edge[:, -2:] = True, True, True, True
    distance = np.linalg.norm(lab - np.median(lab[edge], axis=0), axis=-1)
    spread = np.percentile(distance[edge], 95)
    if spread >= BORDER_SPREAD:
        return None
    labels, _ = ndimage.label(distance < spread + 6.0)
    outside = np.isin(labels, np.unique(labels[edge & (labels > 0)]))
    mask = ndimage.binary_opening(~outside, iterations=1)
    # Mixed pixels on the outline carry background colour; thin things keep them rather than vanish.
    inner = ndimage.binary_erosion(mask)
    if inner.sum() > 0.85 * mask.sum():
        mask = inner
    if not AREA[0] <= mask.mean() <= AREA[1]:
        return None
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BILINEAR)


def u2net_file() -> Path | None:
    """Where the U2-Net model lies on this machine (the folders that rembg uses), or None."""
    env = os.environ
    data_home = Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    homes = [env.get("U2NET_HOME"), env.get("REMBG_HOME"), data_home / "rembg", Path.home() / ".rembg"]
    places = [Path(home) / "models" / "u2net" / "u2net.onnx" for home in homes if home]
    places += [Path(home) / "u2net.onnx" for home in (env.get("U2NET_HOME"), Path.home() / ".u2net") if home]
    return next((place for place in places if place.is_file()), None)


@lru_cache(maxsize=1)
def _u2net_session(path: Path):
    import onnxruntime

    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if digest != U2NET_MD5:
        raise InputError(f"The file {path.name} is damaged (md5 {digest}, not {U2NET_MD5}); remove it.")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _u2net_mask(image: Image.Image) -> Image.Image | None:
    """Saliency mask (mode L) of U2-Net; None without the model file or onnxruntime.

    The model is run directly instead of through rembg, which would download a missing or changed file.
    """
    path = u2net_file()
    if path is None:
        return None
    try:
        session = _u2net_session(path)
    except ImportError:
        return None
    small = np.asarray(image.convert("RGB").resize((320, 320), Image.Resampling.LANCZOS), dtype=np.float32)
    small = (small / max(small.max(), 1e-6) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    batch = small.transpose(2, 0, 1)[None].astype(np.float32)
    saliency = session.run(None, {session.get_inputs()[0].name: batch})[0][0, 0]
    low, high = saliency.min(), saliency.max()
    if high - low < 1e-6:
        return None
    mask = Image.fromarray(((saliency - low) / (high - low) * 255).astype(np.uint8))
    mask = mask.resize(image.size, Image.Resampling.LANCZOS)
    return mask if np.asarray(mask).max() > OPAQUE else None
