"""Attention of any lengths as one Triton kernel; inference only.

A structured latent has another number of tokens for every asset. cuDNN plans each new length in some 60 ms, and on
lengths that are rounded up the fillers must be made and taken out again; here the lengths are numbers like any others.
Softmax as in FlashAttention: blocks of keys one after the other, with the running maximum and sum of every query.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.nn.attention_kernels import score_scale

ROWS, COLUMNS, WARPS, STAGES = 128, 64, 8, 3
"""Queries and keys that a program takes at a time, and its resources."""


@triton.jit
def _block(
    total, weight, top, q, k_ptr, v_ptr, k_step, v_step, start, keys, scale,
    HEAD: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Keys start..start + COLUMNS into the sums of all queries."""
    column = start + tl.arange(0, COLUMNS)
    channel = tl.arange(0, HEAD)
    k_place = column.to(tl.int64)[:, None] * k_step + channel[None, :]
    v_place = column.to(tl.int64)[:, None] * v_step + channel[None, :]
    if WHOLE:
        k = tl.load(k_ptr + k_place)
        v = tl.load(v_ptr + v_place)
    else:
        k = tl.load(k_ptr + k_place, mask=(column < keys)[:, None], other=0.0)
        v = tl.load(v_ptr + v_place, mask=(column < keys)[:, None], other=0.0)
    score = tl.dot(q, tl.trans(k))
    if not WHOLE:
        score = tl.where((column < keys)[None, :], score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, axis=1) * scale)
    share = tl.exp2(score * scale - higher[:, None])
    kept = tl.exp2(top - higher)
    weight = weight * kept + tl.sum(share, axis=1)
    total = tl.dot(share.to(v.dtype), v, total * kept[:, None])
    return total, weight, higher


@triton.jit
def _kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, q_batch, q_head, q_step, k_batch, k_head, k_step, v_batch, v_head, v_step,
    heads, queries, keys, scale,
    HEAD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, HEAD)
    there = (row < queries)[:, None]
    q_place = sample * q_batch + head * q_head + row.to(tl.int64)[:, None] * q_step + channel[None, :]
    q = tl.load(q_ptr + q_place, mask=there, other=0.0)
    k_ptr += sample * k_batch + head * k_head
    v_ptr += sample * v_batch + head * v_head
    scale = tl.cast(scale, tl.float32)  # within compiled code it comes as float64
    total = tl.zeros((ROWS, HEAD), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    whole = keys // COLUMNS * COLUMNS
    for start in range(0, whole, COLUMNS):
        total, weight, top = _block(
            total, weight, top, q, k_ptr, v_ptr, k_step, v_step, start, keys, scale, HEAD, COLUMNS, True
        )
    if whole < keys:
        total, weight, top = _block(
            total, weight, top, q, k_ptr, v_ptr, k_step, v_step, whole, keys, scale, HEAD, COLUMNS, False
        )
    place = ((sample * queries + row)[:, None] * heads + head) * HEAD + channel[None, :]
    tl.store(out_ptr + place, (total / weight[:, None]).to(out_ptr.dtype.element_ty), mask=there)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale 1/sqrt(D), summed in float32 and rounded once.

    Args:
        q: [B, H, N, D] float16 or bfloat16; D is a power of two from 16 to 128, and a head's channels lie side by side.
        k, v: [B, H, M, D], likewise.

    Returns:
        [B, H, N, D], in memory [B, N, H, D].
    """
    batch, heads, queries, channels = q.shape
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(batch, queries, heads, channels)
    _kernel[((queries + ROWS - 1) // ROWS, batch * heads)](
        q, k, v, out, q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2),
        v.stride(0), v.stride(1), v.stride(2), heads, queries, k.shape[2], score_scale(channels),
        HEAD=channels, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out.transpose(1, 2)


def applies(q: Tensor) -> bool:
    """Whether `tiled_attention` takes such queries: no gradient, half precision, heads of a size that it knows."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return not torch.is_grad_enabled() and half and q.shape[3] in (16, 32, 64, 128)
