"""Pictures to tensors: RGB, shorter side, centre crop, normalisation, Qwen's patches.

PIL and torch alone, so that features do not depend on whether torchvision is installed.
"""

import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def square_picture(image: Image.Image, size: int) -> Tensor:
    """Shorter side to `size` pixels (bicubic), centre crop: ``[3, size, size]`` float32 in 0..1.

    Alpha is dropped by plain RGB conversion; composite before if that is not wanted (spec gap3d.md 4.2, 5.4).
    """
    image = image.convert("RGB")
    width, height = image.size
    if width <= height:
        scaled = size, int(size * height / width)
    else:
        scaled = int(size * width / height), size
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2.0), round((scaled[1] - size) / 2.0)
    if scaled != (size, size):
        image = image.crop((left, top, left + size, top + size))
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(size, size, 3).permute(2, 0, 1).float() / 255.0


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``[B, 3, H, W]`` in 0..1 to zero mean and unit deviation per channel of the given statistics."""
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def qwen_patches(images: Tensor, patch: int = 14, merge: int = 2, temporal: int = 2) -> Tensor:
    """Equal images ``[B, 3, H, W]`` in 0..1 to pixel_values ``[B * h * w, 3 * temporal * patch^2]``.

    h = H / patch, w = W / patch, patches in blocks of merge x merge; the still image is repeated over the
    temporal patch. Equals the public Qwen2-VL image processor on pictures that need no resizing.
    """
    batch, channels, height, width = images.shape
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"image sides {height} x {width} are not multiples of {patch * merge}")
    x = normalize(images, CLIP_MEAN, CLIP_STD)
    x = x.view(batch, channels, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # b, block row, block column, row, column, channel, y, x
    x = x.unsqueeze(6).expand(*x.shape[:6], temporal, *x.shape[6:])
    return x.reshape(-1, channels * temporal * patch * patch)
