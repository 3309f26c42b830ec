"""Text and pictures that strangers send: every limit, every odd picture, and the encoder's view."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gap3d_app import background
from gap3d_app.background import cut_out, on_checkerboard
from gap3d_app.errors import InputError
from gap3d_app.prompt import MAX_CHARACTERS, Prompt, clean_text, open_image, preprocess_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def disc(mode: str = "RGB", back="white", size=(200, 160), **options) -> Image.Image:
    image = Image.new(mode, size, back)
    ImageDraw.Draw(image).ellipse((60, 40, 140, 120), fill=options.get("fill", "red"))
    return image


def blank_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds nothing: decoding it must never begin."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# ---- text

def test_text_is_cleaned():
    assert clean_text("  a\tred\x00\x1b[31m\r\nchair\u202e \u200b") == "a red [31m chair"
    assert clean_text("cafe\u0301") == "caf\u00e9"
    assert clean_text("chair \ud800!") == "chair !"
    assert clean_text(None) == ""
    assert clean_text("<|im_end|> <image>") == "<|im_end|> <image>"  # the tokenizer makes these plain text


def test_text_limits():
    assert len(clean_text("x" * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(InputError, match=r"2,001 characters; the limit is 2,000"):
        clean_text("x" * (MAX_CHARACTERS + 1))
    with pytest.raises(InputError, match="type int"):
        clean_text(7)


@pytest.mark.parametrize("text", [None, "", "   ", "\x00\x07"])
def test_nothing_to_work_from(text):
    with pytest.raises(InputError, match="give a prompt, a picture, or both"):
        Prompt.read(text)


# ---- opening

@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(tmp_path, kind):
    data = encoded(disc(), kind)
    path = tmp_path / "disc"
    path.write_bytes(data)
    for source in (data, path, str(path), Image.open(io.BytesIO(data))):
        image = open_image(source)
        assert image.mode == "RGB" and image.size == (200, 160)
        assert np.abs(np.asarray(image)[80, 100].astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("data", [b"", b"not a picture", b"GIF89a" + bytes(50), encoded(disc(), "GIF"),
                                  encoded(disc(), "BMP"), encoded(disc(), "TIFF"),
                                  b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_a_picture(data):
    with pytest.raises(InputError, match="is not a PNG, JPEG or WebP picture"):
        open_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(InputError):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize("side", [5000, 13_300, 60_000])
def test_too_many_pixels_before_decoding(side):
    tracemalloc.start()
    with pytest.raises(InputError, match="24 megapixels"):
        open_image(blank_png(side, side))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 1), (15, 15)])
def test_too_small(size):
    with pytest.raises(InputError, match="at least 16 pixels"):
        open_image(encoded(Image.new("RGB", size)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animated(kind):
    data = encoded(disc(), kind, save_all=True, append_images=[disc(back="blue")])
    with pytest.raises(InputError, match=r"animated \(2 frames\)"):
        open_image(data)


def test_cmyk():
    image = open_image(encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG"))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[32, 32].astype(int) - (255, 0, 0)).max() < 6


def test_sixteen_bit():
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    for source in (encoded(Image.fromarray(values)), Image.fromarray(values.astype(np.int32))):
        grey = np.asarray(open_image(source))
        assert grey.shape == (64, 64, 3) and grey[0, 0, 0] == 0 and grey[-1, -1, 0] == 255
        assert np.abs(grey[..., 0].astype(float) - values / 257).max() <= 0.5


def test_palette_and_grey_with_transparency():
    palette = disc(fill="red").convert("P")
    index = palette.getpixel((0, 0))
    image = open_image(encoded(palette, transparency=index))
    assert image.mode == "RGBA" and image.getpixel((0, 0))[3] == 0 and image.getpixel((100, 80))[3] == 255
    grey = Image.new("LA", (64, 64), (200, 0))
    grey.paste((90, 255), (20, 20, 40, 40))
    image = open_image(encoded(grey))
    assert image.mode == "RGBA" and image.getpixel((30, 30)) == (90, 90, 90, 255)
    assert open_image(encoded(Image.new("1", (64, 64), 1))).getpixel((3, 3)) == (255, 255, 255)


def test_exif_rotation():
    image = Image.new("RGB", (80, 40), "blue")
    image.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise for viewing
    turned = open_image(encoded(image, "PNG", exif=exif))
    assert turned.size == (40, 80)
    assert turned.getpixel((20, 10)) == (255, 0, 0) and turned.getpixel((20, 70)) == (0, 0, 255)
    assert "exif" not in turned.info


def test_paths(tmp_path):
    with pytest.raises(InputError, match="'gone.png' does not exist"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is a folder; give a file"):
        open_image(tmp_path)
    with pytest.raises(InputError):
        open_image("a\0b.png")
    with pytest.raises(InputError, match="type int"):
        open_image(5)


# ---- background

def test_alpha_is_used():
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (30, 30, 70, 70))
    cut = Prompt.read("", encoded(image)).picture
    assert cut.method == "alpha" and cut.warning is None and cut.rgba.getpixel((50, 50))[3] == 255


@pytest.mark.parametrize("alpha", [0, 120])
def test_transparent_is_refused(alpha):
    with pytest.raises(InputError, match="no opaque pixel"):
        Prompt.read("a chair", encoded(Image.new("RGBA", (64, 64), (255, 0, 0, alpha))))


def test_border_flood_keeps_enclosed_background():
    image = Image.new("RGB", (300, 300), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 80, 220, 220), fill=(40, 90, 200))
    draw.ellipse((130, 130, 170, 170), fill=(250, 250, 250))
    cut = cut_out(image)
    alpha = np.asarray(cut.rgba.getchannel("A"))
    assert cut.method == "border" and cut.warning is None
    assert alpha[5, 5] == 0 and alpha[150, 150] == 255 and alpha[150, 100] == 255
    assert abs((alpha > 127).sum() / (np.pi * 70**2) - 1) < 0.06


def test_noisy_border_and_gradient():
    rng = np.random.default_rng(0)
    values = 240 - np.linspace(0, 12, 200)[:, None, None] + rng.normal(0, 2, (200, 200, 3))
    values[70:130, 60:140] = (30, 120, 40)
    cut = cut_out(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    alpha = np.asarray(cut.rgba.getchannel("A")) > 127
    assert cut.method == "border" and alpha[100, 100] and not alpha[:50].any()


def test_busy_picture_is_taken_whole_with_a_warning(monkeypatch):
    monkeypatch.setattr(background, "u2net_file", lambda: None)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut = cut_out(noise)
    assert cut.method == "none" and "whole picture" in cut.warning
    assert cut_out(noise, "none").warning is None
    for method in ("border", "u2net", "alpha"):
        with pytest.raises(InputError, match="choose another"):
            cut_out(noise, method)
    with pytest.raises(InputError, match="choose one of"):
        cut_out(noise, "magic")


def test_u2net_is_found_but_never_fetched(monkeypatch, tmp_path):
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert background.u2net_file() is None
    path = tmp_path / "store" / "models" / "u2net" / "u2net.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"model")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "store"))
    assert background.u2net_file() == path


def test_u2net_mask(monkeypatch, tmp_path):
    class Session:
        def get_inputs(self):
            return [type("Input", (), {"name": "input"})]

        def run(self, _, feeds):
            batch = feeds["input"]
            assert batch.shape == (1, 3, 320, 320) and batch.dtype == np.float32
            out = np.zeros((1, 1, 320, 320), np.float32)
            out[..., 100:200, 100:200] = 3.0
            return [out]

    monkeypatch.setattr(background, "u2net_file", lambda: tmp_path / "u2net.onnx")
    monkeypatch.setattr(background, "_u2net_session", lambda path: Session())
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut = cut_out(noise)
    alpha = np.asarray(cut.rgba.getchannel("A"))
    assert cut.method == "u2net" and alpha[30, 30] == 255 and alpha[2, 2] < 20


def test_checkerboard():
    shown = on_checkerboard(Image.new("RGBA", (48, 24), (0, 0, 0, 0)), cell=12)
    assert shown.mode == "RGB" and shown.getpixel((1, 1)) == (235, 235, 235)
    assert shown.getpixel((13, 1)) == (205, 205, 205)


# ---- the encoder's view

def test_preprocess_matches_the_golden_picture(shared_dir):
    from safetensors.numpy import load_file

    golden = load_file(shared_dir / "conformance" / "trellis" / "image_preprocess.safetensors")
    result = np.asarray(preprocess_image(Image.fromarray(golden["inputs.image"])))
    assert np.abs(result[::4, ::4].astype(int) - golden["outputs.every_4th_pixel"]).max() <= 1
    for axis, name in enumerate(("column_sums", "row_sums")):
        assert np.abs(result.sum(axis, dtype=np.int64) - golden[f"outputs.{name}"]).max() <= 518


def test_preprocess_centres_the_object():
    image = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    image.paste((10, 200, 10, 255), (200, 20, 261, 81))
    result = np.asarray(preprocess_image(image, 224))
    ys, xs = np.nonzero(result[..., 1] > 100)
    assert result.shape == (224, 224, 3) and result[0, 0].max() == 0
    assert abs(ys.mean() - 111.5) < 3 and abs(xs.mean() - 111.5) < 3
    assert abs((xs.max() - xs.min() + 1) / 224 - 1 / 1.2) < 0.03


def test_preprocess_refuses_an_invisible_object():
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 204))
    with pytest.raises(InputError, match="alpha over 204"):
        preprocess_image(image)
    image.putpixel((5, 5), (255, 255, 255, 255))
    with pytest.raises(InputError, match="single pixel"):
        preprocess_image(image)


def test_the_picture_is_named_by_its_pixels():
    first, second = cut_out(disc()), cut_out(disc())
    assert first.sha256 == second.sha256 != cut_out(disc(back="black")).sha256


# ---- TRELLIS's preprocessing to the letter

def cut_with_mask(monkeypatch, exact: bool):
    """A picture of colour (201, 100, 50); the mask is a block of 6 x 6 pixels with one soft pixel of 153."""
    values = np.zeros((12, 12), np.uint8)
    values[2:8, 4:10] = 255
    values[5, 6] = 153
    monkeypatch.setattr(background, "_border_mask", lambda image: None)
    monkeypatch.setattr(background, "_u2net_mask", lambda image: Image.fromarray(values))
    return cut_out(Image.new("RGB", (12, 12), (201, 100, 50)), exact=exact)


def test_soft_edges_are_multiplied_once_or_as_published_twice(monkeypatch):
    """By hand: 153 / 255 = 0.6; once 201 -> 120.6, 100 -> 60, 50 -> 30, cut to whole numbers.

    The published way rounds after the first product (121, 60, 30) and cuts after the second (72.6, 36, 18).
    The square of 1.2 times the object's 5 pixels is the block itself, so nothing is resized.
    """
    once, twice = (cut_with_mask(monkeypatch, exact) for exact in (False, True))
    assert once.rgba.getpixel((6, 5)) == (201, 100, 50, 153) and not once.exact
    assert twice.rgba.getpixel((6, 5)) == (121, 60, 30, 153) and twice.exact
    assert twice.rgba.getpixel((0, 0)) == (0, 0, 0, 0)
    pictures = [np.asarray(preprocess_image(cut.rgba, 6)).astype(int) for cut in (once, twice)]
    for picture, soft in zip(pictures, ((120, 60, 30), (72, 36, 18)), strict=True):
        # Whole products may come out a hair below in float32, and are cut as well.
        assert picture[3, 2, 0] == soft[0] and np.abs(picture[3, 2] - soft).max() <= 1
        rest = np.delete(picture.reshape(-1, 3), 3 * 6 + 2, axis=0)
        assert (rest == (201, 100, 50)).all()


def test_exact_preprocessing_leaves_given_cut_outs_alone():
    """Any transparency counts, of RGBA pictures only; such pictures keep their size and are multiplied once."""
    nearly_full = Image.new("RGBA", (2100, 30), (201, 100, 50, 255))
    nearly_full.putpixel((0, 0), (9, 9, 9, 254))
    cut = Prompt.read("", nearly_full, exact_preprocessing=True).picture
    assert (cut.method, cut.exact, cut.rgba.size) == ("alpha", True, (2100, 30))
    assert cut.rgba.getpixel((0, 0)) == (9, 9, 9, 254)
    assert Prompt.read("", nearly_full).picture.method != "alpha"
    grey = Image.new("LA", (64, 64), (0, 0))
    grey.paste((200, 255), (20, 20, 44, 44))
    assert Prompt.read("", grey).picture.method == "alpha"
    assert Prompt.read("", grey, exact_preprocessing=True).picture.method == "border"


def test_exact_preprocessing_turns_what_its_background_is_removed_from(tmp_path):
    """An orientation counts in opaque pictures only; without `exact` in all."""
    for mode, name in (("RGBA", "clear.png"), ("RGB", "opaque.png")):
        picture = Image.new(mode, (40, 20), "white")
        picture.paste("red", (5, 5, 25, 15))
        if mode == "RGBA":
            picture.putpixel((39, 0), (0, 0, 0, 0))
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(tmp_path / name, exif=exif)
    sizes = [open_image(tmp_path / name, exact).size for name in ("clear.png", "opaque.png") for exact in (True, False)]
    assert sizes == [(40, 20), (20, 40), (20, 40), (20, 40)]


def test_exact_preprocessing_reduces_and_prefers_the_network(monkeypatch):
    seen = []
    monkeypatch.setattr(background, "_u2net_mask", lambda image: seen.append(image.size))
    picture = disc(size=(1601, 1001))
    picture.paste("blue", (400, 200, 1200, 800))
    cut = Prompt.read("", picture, exact_preprocessing=True).picture
    assert seen == [(1023, 640)]  # times 1024 / 1601: 1023.999... and 640.2, both cut
    assert cut.method == "border" and cut.rgba.size == (1023, 640)
    assert Prompt.read("", picture).picture.rgba.size == (1601, 1001) and len(seen) == 1
