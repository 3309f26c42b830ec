"""What may come in: text and pictures, their limits, and the picture that the encoders see.

Everything a stranger can send is refused here with one clear sentence, before it costs memory or time.
"""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gap3d_app.background import OPAQUE, CutOut, cut_out
from gap3d_app.errors import InputError

if TYPE_CHECKING:
    from gap3d_app.values import Mesh  # brings torch, which a refused request need not wait for

MAX_CHARACTERS = 2000
MAX_PIXELS = 24_000_000
MAX_FILE_BYTES = 64 * 2**20
MIN_SIDE = 16
MAX_SIDE = 2048  # larger pictures are reduced to this; the encoders see at most 518 pixels of the object
FORMATS = ("PNG", "JPEG", "WEBP")

_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"  # joiners carry meaning in several scripts and in emoji


MULTI_IMAGE = ("stochastic", "multidiffusion")
MAX_PICTURES = 16
PROMPT_OPTIONS = ("multi_image", "exact_preprocessing", "mesh")
"""Arguments of `Prompt.read` that a call of the pipeline passes on."""


@dataclass(frozen=True)
class Prompt:
    """A checked request: text, cut-out pictures, or both; and perhaps a shape to keep.

    Attributes:
        text: cleaned text, "" when there is none.
        pictures: the cut-out pictures of one object.
        multi_image: how the flows follow several pictures: "stochastic" (one after the other, step by step) or
            "multidiffusion" (the mean of what they predict for each), trellis.md section 1.8.
        mesh: shape whose voxels are kept, so that only surface and colours are new (trellis.md section 1.9), or
            None.
    """

    text: str = ""
    pictures: tuple[CutOut, ...] = ()
    multi_image: str = "stochastic"
    mesh: Mesh | None = None

    @property
    def picture(self) -> CutOut | None:
        """The first picture, or None."""
        return self.pictures[0] if self.pictures else None

    @classmethod
    def read(
        cls, text: str | None, image: Any = None, method: str = "auto", *, multi_image: str = "stochastic",
        exact_preprocessing: bool = False, mesh: Mesh | None = None,
    ) -> Prompt:  # fmt: skip
        """Check and clean a request.

        Args:
            text: what to make, at most 2,000 characters; None or blank means no text.
            image: path, encoded bytes, PIL image, CutOut, a list of up to 16 of those, or None.
            method: background removal, see `background.cut_out`.
            multi_image, mesh: see the attributes.
            exact_preprocessing: do with pictures exactly what TRELLIS does, see `background.cut_out`.

        Raises:
            InputError: nothing to work from, or something over a limit.
        """
        cleaned = clean_text(text)
        if multi_image not in MULTI_IMAGE:
            raise InputError(f"The way to use several pictures is {multi_image!r}; it must be one of "
                             f"{', '.join(MULTI_IMAGE)}.")
        images = list(image) if isinstance(image, list | tuple) else [] if image is None else [image]
        if len(images) > MAX_PICTURES:
            raise InputError(f"There are {len(images)} pictures; the limit is {MAX_PICTURES}, so leave some out.")
        if not images and not cleaned:
            raise InputError("There is nothing to work from: give a prompt, a picture, or both.")

        def cut(one: Any) -> CutOut:
            if isinstance(one, CutOut):
                return one
            return cut_out(open_image(one, exact_preprocessing), method, exact_preprocessing)

        return cls(cleaned, tuple(cut(one) for one in images), multi_image, mesh)

    @classmethod
    def given(cls, prompt: str | Prompt | None, image: Any = None, **more: Any) -> Prompt:
        """A whole Prompt as it is, or what `read` makes of the parts.

        Raises:
            TypeError: a whole Prompt, and parts beside it.
        """
        if not isinstance(prompt, Prompt):
            return cls.read(prompt, image, **more)
        if image is not None or more:
            raise TypeError("a Prompt holds its pictures and options already; give those to Prompt.read")
        return prompt


def clean_text(text: str | None) -> str:
    """The text on one line, in NFC, without control characters, invisible marks and lone surrogates.

    Raises:
        InputError: not a text, or over 2,000 characters.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"The prompt is of type {type(text).__name__}; it must be text.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"The prompt has {len(text):,} characters; the limit is {MAX_CHARACTERS:,}, so shorten it."
        )
    kept = []
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if category == "Cc":
            kept.append(" ")
        elif category not in ("Cf", "Cs") or character in _KEPT_FORMAT_CHARACTERS:
            kept.append(character)
    return " ".join("".join(kept).split())


def open_image(source: str | Path | bytes | Image.Image, exact: bool = False) -> Image.Image:
    """Open a picture as 8-bit RGB or RGBA, upright.

    Size, format and number of frames are checked before any pixel is decoded. 16-bit, grey, palette and CMYK
    pictures are converted, the EXIF orientation is applied, sides over 2,048 pixels are reduced. With `exact` they
    are not, and transparency counts in RGBA pictures only (trellis.md section 1.1).

    Raises:
        InputError: not a PNG, JPEG or WebP picture, damaged, animated, over 24 megapixels, or under 16 pixels
            on a side.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size)
        return _upright_8bit(source, exact)
    if isinstance(source, str | Path):
        path = Path(source)
        name = f"The picture {path.name!r}"
        try:
            if path.is_dir():
                raise InputError(f"{name} is a folder; give a file.")
            if not path.is_file():
                raise InputError(f"{name} does not exist; check the path.")
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise InputError(_too_heavy(name, size))
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{name} cannot be read: {reason}.") from error
    elif isinstance(source, bytes | bytearray | memoryview):
        name, data = "The picture", bytes(source)
        if len(data) > MAX_FILE_BYTES:
            raise InputError(_too_heavy(name, len(data)))
    else:
        kind = type(source).__name__
        raise InputError(f"The picture is of type {kind}; give a path, encoded bytes or a PIL image.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size)
            # A photo of a phone may be a multi-picture JPEG; its first picture is the photo.
            if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{name} is animated ({image.n_frames} frames); save one frame of it.")
            image.load()
            return _upright_8bit(image, exact)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"the limit of {MAX_PIXELS // 10**6} megapixels"
        raise InputError(f"{name} is over {limit}, so reduce it.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a PNG, JPEG or WebP picture; save it as one of these.") from error
    except Exception as error:  # decoders raise many types on damaged data
        raise InputError(f"{name} is damaged and cannot be decoded; save it again.") from error


def _too_heavy(name: str, size: int) -> str:
    return f"{name} has {size / 2**20:.0f} MB; the limit is {MAX_FILE_BYTES >> 20} MB, so reduce it."


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"The picture has {width} x {height} pixels ({width * height / 1e6:.1f} megapixels); "
            f"the limit is {MAX_PIXELS // 10**6} megapixels, so reduce it."
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"The picture has {width} x {height} pixels; both sides must have at least {MIN_SIDE} pixels."
        )


def _upright_8bit(image: Image.Image, exact: bool) -> Image.Image:
    try:
        # TRELLIS turns pictures where it removes their background, which it does not of transparent ones.
        transparent = image.mode == "RGBA" and image.getextrema()[3][0] < 255
        image = image if exact and transparent else ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        image = image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow clips these on conversion; wide integers are 16-bit greys, floats are taken as they are.
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError("The picture has pixels that are not finite; save it as an 8-bit picture.")
        if image.mode != "F" and (image.mode != "I" or values.max() > 255):
            values = values / 257.0
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if exact:
        has_alpha = image.mode == "RGBA"
    image = image.convert("RGBA" if has_alpha else "RGB")
    if has_alpha and image.getextrema()[3] == (255, 255):
        image = image.convert("RGB")
    if max(image.size) > MAX_SIDE and not exact:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    image.info = {}
    return image


def preprocess_image(rgba: Image.Image, size: int = 518) -> Image.Image:
    """The square picture that an encoder sees: the object, centred, on black.

    trellis.md section 1.1, steps 3 to 6: a square of 1.2 times the larger side of the box round all pixels
    with alpha above 204, resized (LANCZOS), colours multiplied by alpha and truncated.

    Args:
        rgba: PIL picture, mode RGBA, straight alpha.
        size: side of the result in pixels.

    Returns:
        PIL picture, mode RGB, size x size.

    Raises:
        InputError: no pixel above the threshold, or an object of a single pixel.
    """
    rgba = rgba.convert("RGBA")
    rows, columns = np.nonzero(np.asarray(rgba.getchannel("A")) > OPAQUE)
    if not len(rows):
        raise InputError(f"The picture has no pixel with alpha over {OPAQUE}; use one with a visible object.")
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    half = int(1.2 * max(right - left, bottom - top)) // 2
    if half < 1:
        raise InputError("The object in the picture is a single pixel; use a picture that shows more of it.")
    x, y = (left + right) / 2, (top + bottom) / 2
    square = rgba.crop((x - half, y - half, x + half, y + half))
    square = square.resize((size, size), Image.Resampling.LANCZOS)
    values = np.asarray(square, dtype=np.float32) / 255
    return Image.fromarray((values[..., :3] * values[..., 3:] * 255).astype(np.uint8))
