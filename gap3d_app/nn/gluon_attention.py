"""Attention on Hopper GPUs as one kernel in Gluon, Triton's language of explicit layouts; inference only.

A program takes 64 queries, held by one group of four warps; three of them share a multiprocessor, and while one makes
exponentials another has the tensor cores. The copy engine brings keys and values, two tiles ahead.

Flash attention corrects its sums whenever a tile of keys raises a query's largest score, which costs a third of the
instructions. Here the first tile's largest score serves for all tiles, with room for scores up to 15 above it: float16
reaches that far, bfloat16 much further. Where a score lies higher still, an exponential is infinite and so is all of
its query's result; then the program begins again and corrects as usual. Gluon has no interpreter: the twin that tests
compare with is torch's own attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

LOG2_E = 1.4426950408889634

CHANNELS = 64
"""Of a head, as all public networks have."""

ROWS, COLUMNS, STAGES, WARPS = 64, 128, 2, 4
"""Queries of a program, keys of a tile, tiles in shared memory, warps of a program."""

REGISTERS = 168
"""Of a thread: with this, three programs fit on a multiprocessor."""

MARGIN = gl.constexpr(6.0)
"""Binary orders between one and the largest exponential of the first tile. Sixteen more are left in float16 above one,
and below the smallest that still counts in a sum of thousands none is lost."""


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
def _attended(q, k_desc, v_desc, begun, ready, k_tiles, v_tiles, sample, head, keys, scale, CORRECT: gl.constexpr):
    """The queries' results [ROWS, CHANNELS] float32; `begun` and `ready` are unused barriers."""
    STAGES: gl.constexpr = k_tiles.shape[0]
    COLUMNS: gl.constexpr = k_tiles.shape[3]
    CHANNELS: gl.constexpr = k_tiles.shape[4]
    ROWS: gl.constexpr = q.shape[0]
    of_scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, COLUMNS, 16])
    of_result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, CHANNELS, 16])
    of_shares: gl.constexpr = gl.DotOperandLayout(0, of_result, 2)
    by_row: gl.constexpr = gl.SliceLayout(1, of_result)
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
    top = gl.max(score, 1) * scale
    if not CORRECT:
        top = top + MARGIN
    wide = _exp2(score * scale - top[:, None])
    weight = gl.sum(wide, 1)
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
            weight = weight * kept
        wide = _exp2(score * scale - top[:, None])
        weight = weight + gl.sum(wide, 1)
        # Here rather than above: its loop keeps the compiler from moving the next wait before the exponentials.
        mbarrier.wait(ready.index(tile % STAGES), (tile // STAGES) & 1)
        total = warpgroup_mma_wait(0, deps=[total_begun])
        gl.thread_barrier()
        later = tile - 1 + STAGES
        _fetch(k_desc, v_desc, sample, head, later, tiles, ready, k_tiles, v_tiles, later < tiles)
        if CORRECT:
            total = total * gl.convert_layout(kept, by_row)[:, None]
        share = gl.convert_layout(wide.to(q.dtype), of_shares)
    total = warpgroup_mma_wait(0, deps=[_summed(share, v_tiles, (tiles - 1) % STAGES, total)])
    return total / gl.convert_layout(weight, by_row)[:, None]


@gluon.jit(do_not_specialize=["heads", "queries", "keys"])
def _kernel(
    q_desc, k_desc, v_desc, out_ptr, heads, queries, keys, scale,
    ROWS: gl.constexpr, COLUMNS: gl.constexpr, CHANNELS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q_desc.dtype
    sample, head = gl.program_id(1) // heads, gl.program_id(1) % heads
    row = gl.program_id(0) * ROWS
    q_tile = gl.allocate_shared_memory(dtype, [1, 1, ROWS, CHANNELS], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, COLUMNS, CHANNELS], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, COLUMNS, CHANNELS], v_desc.layout)
    asked = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    begun = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ready_again = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(asked, count=1)
    for i in gl.static_range(2):
        mbarrier.init(begun.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(ready_again.index(i), count=1)
    mbarrier.expect(asked, ROWS * CHANNELS * 2)
    tma.async_copy_global_to_shared(q_desc, [sample, head, row, 0], asked, q_tile)
    q = q_tile.reshape([ROWS, CHANNELS])
    mbarrier.wait(asked, 0)
    found = _attended(
        q, k_desc, v_desc, begun.index(0), ready, k_tiles, v_tiles, sample, head, keys, scale, False
    )
    beyond = gl.max(gl.max(gl.where(gl.abs(found) < float("inf"), 0, 1), 1), 0)
    if beyond > 0:
        found = _attended(
            q, k_desc, v_desc, begun.index(1), ready_again, k_tiles, v_tiles, sample, head, keys, scale, True
        )
    of_result: gl.constexpr = found.type.layout
    line = row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, of_result))
    channel = gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, of_result))
    place = ((sample.to(gl.int64) * queries + line)[:, None] * heads + head) * CHANNELS + channel[None, :]
    gl.store(out_ptr + place, found.to(dtype), mask=(line < queries)[:, None])


def gluon_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale 1/sqrt(D), summed in float32 and rounded once.

    Args:
        q: [B, H, N, 64] float16 or bfloat16, on a Hopper GPU.
        k, v: [B, H, M, 64], likewise.

    Returns:
        [B, H, N, 64], in memory [B, N, H, 64].
    """
    return torch.ops.gap3d.gluon_attention(q, k, v).transpose(1, 2)


# An operation of torch's, since its compiler does not take Gluon in; by hand, for the decorator checks 0.2 ms a call.
torch.library.define("gap3d::gluon_attention", "(Tensor q, Tensor k, Tensor v) -> Tensor")


@torch.library.impl("gap3d::gluon_attention", "CUDA")
def _launch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, queries, channels = q.shape
    out = q.new_empty(batch, queries, heads, channels)
    parts = [_described(x, rows) for x, rows in ((q, ROWS), (k, COLUMNS), (v, COLUMNS))]
    _kernel[((queries + ROWS - 1) // ROWS, batch * heads)](
        *parts, out, heads, queries, k.shape[2], channels**-0.5 * LOG2_E,
        ROWS=ROWS, COLUMNS=COLUMNS, CHANNELS=channels, STAGES=STAGES, num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip
    return out


@torch.library.register_fake("gap3d::gluon_attention")
def _shape(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, queries, channels = q.shape
    return q.new_empty(batch, queries, heads, channels)


def _described(x: Tensor, rows: int) -> TensorDescriptor:
    """`x` [B, H, N, 64] for the copy engine, `rows` at a time: 16-byte steps, channels side by side."""
    if x.stride(3) != 1 or any(step % 8 or not step for step in x.stride()[:3]) or x.data_ptr() % 16:
        x = x.contiguous()
    block = [1, 1, rows, x.shape[3]]
    dtype = gl.float16 if x.dtype == torch.float16 else gl.bfloat16
    return TensorDescriptor.from_tensor(x, block, gl.NVMMASharedLayout.get_default_for(block, dtype))


def applies(q: Tensor) -> bool:
    """Whether `gluon_attention` takes such queries: no gradient, half precision, heads of 64 channels."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return not torch.is_grad_enabled() and half and q.shape[3] == CHANNELS
