"""Attention on Hopper GPUs as one kernel in Gluon, Triton's language of explicit layouts; inference only.

A program takes 64 queries, held by one group of four warps; three of them share a multiprocessor, and while one makes
exponentials another has the tensor cores. The copy engine brings keys and values, two tiles ahead.

Flash attention corrects its sums whenever a tile of keys raises a query's largest score, which costs a third of the
instructions. Here the first tile's largest score serves for all tiles, with room for scores up to 15 above it: float16
reaches that far, bfloat16 much further. Queries that are normed carry the scale of the scores, and where the first
tile's largest scores lie near zero, as those of normed queries and keys mostly do, nothing is taken off at all: an
exponential is one instruction then. Where a score lies too high after all, an exponential is infinite and so is all of
its query's result; then the program begins again and corrects as usual. Gluon has no interpreter: the twin that tests
compare with is torch's own attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from gap3d_app.kernels import Launcher, Tiled
from gap3d_app.nn.attention_kernels import score_scale
from gap3d_app.nn.gluon_tiles import STEP, aligned, described

CHANNELS = 64
"""Of a head, as all public networks have."""

ROWS, COLUMNS, STAGES, WARPS = 64, 128, 2, 4
"""Queries of a program, keys of a tile, tiles in shared memory, warps of a program."""

REGISTERS = 168
"""Of a thread: with this, three programs fit on a multiprocessor."""

MARGIN = gl.constexpr(6.0)
"""Binary orders between one and the largest exponential of the first tile. Sixteen more are left in float16 above one,
and below the smallest that still counts in a sum of thousands none is lost."""

NEAR = gl.constexpr(8.0)
"""Binary orders from one within which the first tile's largest exponentials need no shift: as many are left above."""


@gluon.jit
def _exp2(x):
    # Volatile, so that it stays before the wait for the product that runs meanwhile.
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=r,r", [x], gl.float32, is_pure=False, pack=1)


@gluon.jit
def _fetch(k_desc, v_desc, sample, head, tile, tiles, ready, k_tiles, v_tiles, there):
    """Ask for the keys of tile + 1 and the values of tile: those two are needed together.

    The ragged last tile comes first, so that only the first one must look for the end.
    """
    COLUMNS: gl.constexpr = k_tiles.shape[3]
    slot = tile % k_tiles.shape[0]
    bar = ready.index(slot)
    mbarrier.expect(bar, 2 * COLUMNS * k_tiles.shape[4] * 2, pred=there)
    start = gl.where(tile == 0, tiles - 1, tile - 1) * COLUMNS
    tma.async_copy_global_to_shared(k_desc, [sample, head, tile * COLUMNS, 0], bar, k_tiles.index(slot), pred=there)
    tma.async_copy_global_to_shared(v_desc, [sample, head, start, 0], bar, v_tiles.index(slot), pred=there)


@gluon.jit
def _scores(q, k_tiles, slot, none):
    """Begin the product of the queries with a tile of keys."""
    k = k_tiles.index(slot).reshape([k_tiles.shape[3], k_tiles.shape[4]]).permute((1, 0))
    return warpgroup_mma(q, k, none, use_acc=False, is_async=True)


@gluon.jit
def _summed(share, v_tiles, slot, total):
    """Begin to add a tile of values."""
    v = v_tiles.index(slot).reshape([v_tiles.shape[3], v_tiles.shape[4]])
    return warpgroup_mma(share, v, total, is_async=True)


@gluon.jit
def _by_thread(x):
    """Sums [ROWS, parts] of what a thread holds of every row. Summed up, they go from thread to thread only once."""
    return gl.sum(gl.reshape(x, [x.shape[0], x.shape[1] // 8, 8]), 1)


@gluon.jit
def _attended(
    q, k_desc, v_desc, begun, ready, k_tiles, v_tiles, sample, head, keys, scale,
    SCALED: gl.constexpr, CORRECT: gl.constexpr,
):  # fmt: skip
    """The queries' results [ROWS, CHANNELS] float32; `begun` and `ready` are unused barriers.

    SCALED: queries are multiplied by the scale already.
    """
    STAGES: gl.constexpr = k_tiles.shape[0]
    COLUMNS: gl.constexpr = k_tiles.shape[3]
    CHANNELS: gl.constexpr = k_tiles.shape[4]
    ROWS: gl.constexpr = q.shape[0]
    of_scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, COLUMNS, 16])
    of_result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, CHANNELS, 16])
    tiles = (keys + COLUMNS - 1) // COLUMNS
    # The last slot is free until the first scores are there.
    mbarrier.expect(begun, COLUMNS * CHANNELS * 2)
    first = (tiles - 1) * COLUMNS
    tma.async_copy_global_to_shared(k_desc, [sample, head, first, 0], begun, k_tiles.index(STAGES - 1))
    for tile in gl.static_range(STAGES - 1):
        _fetch(k_desc, v_desc, sample, head, tile, tiles, ready, k_tiles, v_tiles, tile < tiles)
    none = gl.zeros([ROWS, COLUMNS], gl.float32, of_scores)
    total = gl.zeros([ROWS, CHANNELS], gl.float32, of_result)
    mbarrier.wait(begun, 0)
    score = warpgroup_mma_wait(0, deps=[_scores(q, k_tiles, STAGES - 1, none)])
    gl.thread_barrier()
    _fetch(k_desc, v_desc, sample, head, STAGES - 1, tiles, ready, k_tiles, v_tiles, STAGES - 1 < tiles)
    column = first + gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, of_scores))
    score = gl.where((column < keys)[None, :], score, float("-inf"))
    if SCALED:
        scale = 1.0
    top = gl.max(score, 1) * scale
    given = (q, k_desc, v_desc, ready, k_tiles, v_tiles, sample, head, tiles, scale)
    near = gl.max(gl.abs(top), 0) < NEAR if SCALED else False
    if CORRECT:
        total, weight = _added(given, score, none, total, top, True, True)
    elif near:
        total, weight = _added(given, score, none, total, top, False, False)
    else:
        total, weight = _added(given, score, none, total, top + MARGIN, True, False)
    return total / gl.convert_layout(gl.sum(weight, 1), gl.SliceLayout(1, of_result))[:, None]


@gluon.jit
def _weighed(score, scale, top, SHIFT: gl.constexpr):
    """Exponentials of scores."""
    if SHIFT:
        score = score * scale - top[:, None]
    return _exp2(score)


@gluon.jit
def _added(given, score, none, total, top, SHIFT: gl.constexpr, CORRECT: gl.constexpr):
    """(values weighed with the exponentials of all scores, sums of these by thread); score: the first tile's."""
    q, k_desc, v_desc, ready, k_tiles, v_tiles, sample, head, tiles, scale = given
    STAGES: gl.constexpr = k_tiles.shape[0]
    of_shares: gl.constexpr = gl.DotOperandLayout(0, total.type.layout, 2)
    by_row: gl.constexpr = gl.SliceLayout(1, total.type.layout)
    wide = _weighed(score, scale, top, SHIFT)
    weight = _by_thread(wide)
    share = gl.convert_layout(wide.to(q.dtype), of_shares)
    mbarrier.wait(ready.index(0), 0)
    for tile in range(1, tiles):
        slot = (tile - 1) % STAGES
        score_begun = _scores(q, k_tiles, slot, none)
        total_begun = _summed(share, v_tiles, slot, total)
        score = warpgroup_mma_wait(1, deps=[score_begun])
        if CORRECT:
            higher = gl.maximum(top, gl.max(score, 1) * scale)
            kept = _exp2(top - higher)
            top = higher
            weight = weight * gl.convert_layout(kept, gl.SliceLayout(1, weight.type.layout))[:, None]
        wide = _weighed(score, scale, top, SHIFT)
        weight = weight + _by_thread(wide)
        # Here rather than above: its loop keeps the compiler from moving the next wait before the exponentials.
        mbarrier.wait(ready.index(tile % STAGES), (tile // STAGES) & 1)
        total = warpgroup_mma_wait(0, deps=[total_begun])
        gl.thread_barrier()
        later = tile - 1 + STAGES
        _fetch(k_desc, v_desc, sample, head, later, tiles, ready, k_tiles, v_tiles, later < tiles)
        if CORRECT:
            total = total * gl.convert_layout(kept, by_row)[:, None]
        share = gl.convert_layout(wide.to(q.dtype), of_shares)
    return warpgroup_mma_wait(0, deps=[_summed(share, v_tiles, (tiles - 1) % STAGES, total)]), weight


@gluon.jit
def _normed(q, gain_ptr, scale):
    """Bring every query of the tile to the length scale * sqrt(CHANNELS) times its channel's gain, in place."""
    CHANNELS: gl.constexpr = q.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    wide = q.load(layout).to(gl.float32)
    size = gl.rsqrt(gl.maximum(gl.sum(wide * wide, 1), 1e-24))
    gain = gl.load(gain_ptr + gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, layout))) * (CHANNELS**0.5 * scale)
    q.store((wide * size[:, None] * gain[None, :]).to(q.dtype))
    fence_async_shared()  # the tensor cores read it by another way than it was written
    gl.thread_barrier()


# Every asset has other numbers: nothing is compiled anew for what divides them.
@gluon.jit(do_not_specialize=["heads", "queries", "keys", "given_samples", "given_keys"])
def _kernel(
    q_desc, k_desc, v_desc, gain_ptr, given_q_desc, given_k_desc, given_v_desc, gate_ptr, constant_ptr, out_ptr,
    heads, queries, keys, given_samples, given_keys, scale,
    ROWS: gl.constexpr, COLUMNS: gl.constexpr, CHANNELS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """With `gain_ptr` None queries are normalised already; with `gate_ptr` None there is no condition.

    scale: of the scores in binary orders, or what is left of it for a condition, see `joint_attention`.
    """
    dtype: gl.constexpr = q_desc.dtype
    sample, head = gl.program_id(1) // heads, gl.program_id(1) % heads
    row = gl.program_id(0) * ROWS
    q_tile = gl.allocate_shared_memory(dtype, [1, 1, ROWS, CHANNELS], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, COLUMNS, CHANNELS], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, COLUMNS, CHANNELS], v_desc.layout)
    # One barrier for each time that queries, first keys and slots may be filled.
    asked = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    begun = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ready_again = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ready_given = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(asked.index(i), count=1)
    for i in gl.static_range(3):
        mbarrier.init(begun.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(ready_again.index(i), count=1)
        mbarrier.init(ready_given.index(i), count=1)
    mbarrier.expect(asked.index(0), ROWS * CHANNELS * 2)
    tma.async_copy_global_to_shared(q_desc, [sample, head, row, 0], asked.index(0), q_tile)
    q = q_tile.reshape([ROWS, CHANNELS])
    mbarrier.wait(asked.index(0), 0)
    if gain_ptr is not None:
        _normed(q, gain_ptr + head * CHANNELS, scale)
    scaled: gl.constexpr = gain_ptr is not None or gate_ptr is not None
    found = _attended(
        q, k_desc, v_desc, begun.index(0), ready, k_tiles, v_tiles, sample, head, keys, scale, scaled, False
    )
    beyond = gl.max(gl.max(gl.where(gl.abs(found) < float("inf"), 0, 1), 1), 0)
    if beyond > 0:
        found = _attended(
            q, k_desc, v_desc, begun.index(1), ready_again, k_tiles, v_tiles, sample, head, keys, scale, scaled, True
        )
    of_result: gl.constexpr = found.type.layout
    line = row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, of_result))
    channel = gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, of_result))
    place = ((sample.to(gl.int64) * queries + line)[:, None] * heads + head) * CHANNELS + channel[None, :]
    there = (line < queries)[:, None]
    if gate_ptr is None:
        gl.store(out_ptr + place, found.to(dtype), mask=there)
    else:
        gate = 2 / (1 + gl.exp2(gl.load(gate_ptr + head).to(gl.float32) * (-2 * 1.4426950408889634))) - 1
        if sample >= given_samples:
            own = ((sample - given_samples) * heads + head) * CHANNELS
            found += gate * gl.load(constant_ptr + own + channel).to(gl.float32)[None, :]
            gl.store(out_ptr + place, found.to(dtype), mask=there)
        else:
            # Stored and read again: both results do not fit into the registers.
            gl.store(out_ptr + place, found.to(dtype), mask=there)
            gl.thread_barrier()
            mbarrier.expect(asked.index(1), ROWS * CHANNELS * 2)
            tma.async_copy_global_to_shared(given_q_desc, [sample, head, row, 0], asked.index(1), q_tile)
            mbarrier.wait(asked.index(1), 0)
            across = _attended(
                q, given_k_desc, given_v_desc, begun.index(2), ready_given, k_tiles, v_tiles,
                sample, head, given_keys, scale, False, True,
            )  # fmt: skip
            found = gl.load(out_ptr + place, mask=there, other=0.0).to(gl.float32) + gate * across
            gl.store(out_ptr + place, found.to(dtype), mask=there)


def gluon_attention(q: Tensor, k: Tensor, v: Tensor, gain: Tensor | None = None) -> Tensor:
    """Softmax attention with scale 1/sqrt(D), summed in float32 and rounded once.

    Args:
        q: [B, H, N, 64] float16 or bfloat16, on a Hopper GPU.
        k, v: [B, H, M, 64], likewise.
        gain: [H, 64] float32, when the queries have yet to be normalised (see `norms.MultiHeadRMSNorm`).

    Returns:
        [B, H, N, 64], in memory [B, N, H, 64].
    """
    return torch.ops.gap3d.gluon_attention(q, k, v, gain).transpose(1, 2)


def joint_attention(
    q: Tensor, k: Tensor, v: Tensor, given: tuple[Tensor, Tensor, Tensor], constant: Tensor | None, gate: Tensor
) -> Tensor:
    """`gluon_attention` among the tokens plus tanh(gate) times what a condition adds (gap3d.md section 3.3).

    Args:
        q, k, v: [B, H, N, 64]; queries and keys times the root of `score_scale`, so that scores come scaled.
        given: queries [G, H, N, 64], likewise, keys and values [G, H, L, 64], as they are, of the first G samples'
            attention to the condition.
        constant: [B - G, H, 1, 64] its result for the others; None if there are none.
        gate: [H].

    Returns:
        [B, N, H * 64].
    """
    return torch.ops.gap3d.joint_attention(q, k, v, *given, constant, gate).flatten(2)


# Operations of torch's, since its compiler does not take Gluon in; by hand, for the decorator checks 0.2 ms a call.
torch.library.define("gap3d::gluon_attention", "(Tensor q, Tensor k, Tensor v, Tensor? gain) -> Tensor")
torch.library.define(
    "gap3d::joint_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor given_q, Tensor given_k, Tensor given_v, Tensor? constant, Tensor gate)"
    " -> Tensor",
)


@torch.library.register_fake("gap3d::gluon_attention")
@torch.library.register_fake("gap3d::joint_attention")
def _shape(q: Tensor, *others: Tensor | None) -> Tensor:
    batch, heads, queries, channels = q.shape
    return q.new_empty(batch, queries, heads, channels)


@torch.library.impl("gap3d::gluon_attention", "CUDA")
def _alone(q: Tensor, k: Tensor, v: Tensor, gain: Tensor | None) -> Tensor:
    return _launched((q, k, v), gain, (None,) * 3, None, None, _shape(q), (0, 0))


@torch.library.impl("gap3d::joint_attention", "CUDA")
def _joined(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given_q: Tensor,
    given_k: Tensor,
    given_v: Tensor,
    constant: Tensor | None,
    gate: Tensor,
) -> Tensor:
    out = _shape(q)
    constant = out if constant is None else constant.contiguous()  # never read then
    given, sizes = (given_q, given_k, given_v), (len(given_q), given_k.shape[2])
    return _launched((q, k, v), None, given, gate, constant, out, sizes)


def _launched(
    own: tuple[Tensor, ...],
    gain: Tensor | None,
    given: tuple[Tensor | None, ...],
    gate: Tensor | None,
    constant: Tensor | None,
    out: Tensor,
    sizes: tuple[int, int],
) -> Tensor:
    batch, queries, heads, channels = out.shape
    grid = (-(-queries // ROWS), batch * heads)
    rows = (ROWS, COLUMNS, COLUMNS) * 2
    tiles = [None if x is None else _tiled(x, n) for x, n in zip((*own, *given), rows, strict=True)]
    scale = score_scale(channels)
    numbers = (heads, queries, own[1].shape[2], *sizes, scale if gate is None else scale**0.5)
    _launch(
        grid,
        (*tiles[:3], gain, *tiles[3:], gate, constant, out, *numbers),
        {"ROWS": ROWS, "COLUMNS": COLUMNS, "CHANNELS": channels, "STAGES": STAGES},
        num_warps=WARPS,
        maxnreg=REGISTERS,
    )
    return out


_launch = Launcher(_kernel, described)


def _tiled(x: Tensor, rows: int) -> Tiled:
    """Queries, keys or values [B, H, N, 64] for the copy engine, `rows` tokens at a time.

    It takes steps of 16 bytes and channels side by side.
    """
    batch, head, token, channel = x.stride()
    if channel != 1 or batch % 8 or head % 8 or token % 8 or not batch * head * token or x.data_ptr() % STEP:
        x = aligned(x)
    return Tiled(x, list(x.shape), list(x.stride()), (1, 1, rows, CHANNELS))


def applies(q: Tensor) -> bool:
    """Whether `gluon_attention` takes such queries: no gradient, half precision, heads of 64 channels."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return not torch.is_grad_enabled() and half and q.shape[3] == CHANNELS
