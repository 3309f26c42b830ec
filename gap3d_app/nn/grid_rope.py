"""The two-dimensional rotary code of the GridDiT (gap3d.md section 3.4)."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gap3d_app.nn.attention_kernels import score_scale


def rope_table(
    height: int, width: int, head_dim: int, leading: int = 5, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[leading + height*width, head_dim/2]`` float32 of the 2-D rotary code (spec 3.4).

    Channel pair 2k turns by row * f_k, pair 2k + 1 by column * f_k, with f_k = 10000^(-2k / (head_dim/2)) and
    k < head_dim/4. The leading class and register tokens do not turn.
    """
    half = head_dim // 2
    frequency = 10000.0 ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    row = torch.arange(height, dtype=torch.float64)[:, None, None] * frequency
    column = torch.arange(width, dtype=torch.float64)[None, :, None] * frequency
    shape = (height, width, half // 2)
    angle = torch.stack([row.expand(shape), column.expand(shape)], dim=-1).reshape(height * width, half)
    angle = torch.cat([angle.new_zeros(leading, half), angle])
    return angle.cos().float().to(device), angle.sin().float().to(device)


class Rope(NamedTuple):
    """The rotary table laid out for `rotate`.

    cos and sin ``[N, head_dim]`` per channel of a head, the sine negative on the first of each pair; phase
    ``[N, C/2]`` complex64 per pair, repeated for all heads. scaled: the table times the root of `score_scale`, which
    also scales what it turns; None in itself.
    """

    cos: Tensor
    sin: Tensor
    phase: Tensor
    scaled: "Rope | None" = None

    def narrow(self, channels: int) -> "Rope":
        """The table of the first `channels` channels (fewer heads)."""
        return Rope(self.cos, self.sin, self.phase[:, : channels // 2])


@lru_cache(maxsize=8)
def tiled_rope(
    height: int, width: int, head_dim: int, heads: int, leading: int, device: torch.device
) -> Rope:
    """`rope_table` for ``heads * head_dim`` channels; kept, as every step of a run needs the same one."""
    with torch.inference_mode(False):
        cos, sin = rope_table(height, width, head_dim, leading, device)
        signed = torch.stack([-sin, sin], dim=-1).flatten(1)
        rope = Rope(cos.repeat_interleave(2, dim=-1), signed, torch.complex(cos, sin).repeat(1, heads))
        root = score_scale(head_dim) ** 0.5
        return rope._replace(scaled=Rope(*(part * root for part in rope[:3])))


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate adjacent channel pairs of ``x [B, N, C]``; float32 inside, dtype kept."""
    if x.device.type != "cpu":
        return rotate_real(x, rope)
    pairs = x.float().unflatten(-1, (-1, 2))
    turned = torch.view_as_real(torch.view_as_complex(pairs) * rope.phase)  # six times faster here
    return turned.flatten(-2).to(x.dtype)


def norm_rotate(
    parts: list[tuple[Tensor, nn.LayerNorm]], rope: Rope, fused: bool = False
) -> list[Tensor]:
    """`rotate(norm(x), rope)` of some x ``[B, N, C]``; with `fused` by one Triton kernel, where it takes the rows.

    B and C may differ, the latter up to the channels of the table.
    """
    if fused and parts[0][0].is_cuda:
        from gap3d_app.nn import triton_rotation  # not every machine has triton

        if triton_rotation.applies(parts, rope.cos.shape[1]):
            return triton_rotation.norm_rotate(parts, rope.cos, rope.sin)
    return [rotate(norm(x), rope.narrow(x.shape[-1])) for x, norm in parts]


def rotate_real(x: Tensor, rope: Rope) -> Tensor:
    """`rotate` without complex numbers, which compilers prefer, and with a table for one head, which stays near."""
    heads = x.float().unflatten(-1, (-1, rope.cos.shape[-1]))
    swapped = heads.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(heads * rope.cos[:, None], swapped, rope.sin[:, None]).flatten(-2).to(x.dtype)
