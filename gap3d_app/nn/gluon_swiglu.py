"""A gated linear layer on Hopper GPUs as one kernel in Gluon: silu(x Wg') * (x Wv') without the product in memory.

A multiprocessor runs one program, which goes through tiles of the result. One warp of it asks the copy engine for what
the next steps along the channels need, across the borders of tiles. Two groups of four warps multiply, each 64 of a
tile's 128 rows with its 128 gates and their 128 values at once: a thread gets a gate and its value in the same place,
so that nothing passes between threads before the result is written. The groups share what is copied but never wait for
each other: while one makes exponentials, the other may have the tensor cores.

Roundings are those of separate operations. Gluon has no interpreter: the twin that tests compare with is torch's.
"""

from __future__ import annotations

from functools import cache

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
from gap3d_app.nn.gluon_tiles import aligned, described

ROWS, COLUMNS, DEPTH, STAGES = 128, 128, 64, 4
"""Of a tile: rows, gates (and as many values), channels of a step; steps in shared memory."""

GROUP = 22
"""Rows of tiles that are done together, column by column, while what they read stays in the L2 cache."""

WARPS, REGISTERS = 4, 240
"""Warps of a group; registers of a thread that multiplies. The copying warp and three that only fill up its group take
24, and the first group gets what the others leave of 168 for everyone: 240 as well."""

NEGATIVE_LOG2_E = gl.constexpr(-1.4426950408889634)

# Two numbers to the narrow type and back: the compiler would take a slow instruction for every single one.
ROUND_BFLOAT16 = gl.constexpr(
    "{ .reg .b32 both; cvt.rn.bf16x2.f32 both, $3, $2; shl.b32 $0, both, 16; and.b32 $1, both, 0xffff0000; }"
)
ROUND_FLOAT16 = gl.constexpr(
    "{ .reg .b32 both; .reg .b16 low, high; cvt.rn.f16x2.f32 both, $3, $2; mov.b32 {low, high}, both;"
    " cvt.f32.f16 $0, low; cvt.f32.f16 $1, high; }"
)


@gluon.jit
def _rounded(x, dtype: gl.constexpr):
    """x as near as `dtype` comes to it, still float32."""
    code: gl.constexpr = ROUND_BFLOAT16 if dtype == gl.bfloat16 else ROUND_FLOAT16
    return gl.inline_asm_elementwise(code, "=r,=r,r,r", [x], gl.float32, is_pure=True, pack=2)


@gluon.jit
def _sigmoid(x):
    """One over 1 + exp(-x), as close as the special units come: far closer than what is rounded then."""
    power = gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=r,r", [x * NEGATIVE_LOG2_E], gl.float32, is_pure=True, pack=1
    )
    return gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=r,r", [1 + power], gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def _place(tile, rows, columns, GROUP: gl.constexpr):
    """Where a tile lies, counted in tiles, among `rows` times `columns`."""
    first = tile // (GROUP * columns) * GROUP
    inner = tile - first * columns
    height = gl.minimum(rows - first, GROUP)
    return first + inner % height, inner // height


@gluon.jit
def _copy(tiles, x_desc, w_desc, GROUP: gl.constexpr):
    """One warp: fill every slot as soon as both groups have let it go."""
    x_tiles, w_tiles, full, empty, rows, columns, steps = tiles
    STAGES: gl.constexpr = x_tiles.shape[0]
    ROWS: gl.constexpr = x_tiles.shape[1]
    COLUMNS: gl.constexpr = w_tiles.shape[2]
    DEPTH: gl.constexpr = x_tiles.shape[2]
    slot, phase = 0, 0
    for tile in range(gl.program_id(0), rows * columns, gl.num_programs(0)):
        row, column = _place(tile, rows, columns, GROUP)
        for step in range(steps):
            bar = full.index(slot)
            mbarrier.wait(empty.index(slot), phase ^ 1)  # which an unused barrier lets pass
            mbarrier.expect(bar, (ROWS + 2 * COLUMNS) * DEPTH * 2)
            tma.async_copy_global_to_shared(x_desc, [row * ROWS, step * DEPTH], bar, x_tiles.index(slot))
            tma.async_copy_global_to_shared(w_desc, [0, column * COLUMNS, step * DEPTH], bar, w_tiles.index(slot))
            slot += 1
            if slot == STAGES:
                slot, phase = 0, phase ^ 1


@gluon.jit
def _multiply(tiles, out_desc, out_tile, GROUP: gl.constexpr, PART: gl.constexpr):
    """Four warps: the first or the second half of every tile's rows."""
    x_tiles, w_tiles, full, empty, rows, columns, steps = tiles
    STAGES: gl.constexpr = x_tiles.shape[0]
    ROWS: gl.constexpr = x_tiles.shape[1] // 2
    COLUMNS: gl.constexpr = w_tiles.shape[2]
    DEPTH: gl.constexpr = x_tiles.shape[2]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, 2 * COLUMNS, 16])
    of_result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, COLUMNS, 16])
    dtype: gl.constexpr = out_desc.dtype
    slot, phase, left = 0, 0, 0
    # Outside the loop: every tile's first product overwrites what is there.
    total = gl.zeros([ROWS, 2 * COLUMNS], gl.float32, layout)
    for tile in range(gl.program_id(0), rows * columns, gl.num_programs(0)):
        row, column = _place(tile, rows, columns, GROUP)
        for step in range(steps):
            x = x_tiles.index(slot).slice(PART * ROWS, ROWS)
            w = w_tiles.index(slot).reshape([2 * COLUMNS, DEPTH]).permute((1, 0))
            mbarrier.wait(full.index(slot), phase)
            total = warpgroup_mma(x, w, total, use_acc=step > 0, is_async=True)
            total = warpgroup_mma_wait(1, deps=[total])
            gl.thread_barrier()  # the step before is done by all four warps
            mbarrier.arrive(empty.index(left), pred=step > 0)
            left = slot
            slot += 1
            if slot == STAGES:
                slot, phase = 0, phase ^ 1
        total = warpgroup_mma_wait(0, deps=[total])
        gl.thread_barrier()
        mbarrier.arrive(empty.index(left))
        gate, value = gl.split(total.reshape([ROWS, 2, COLUMNS]).permute((0, 2, 1)))
        gate = _rounded(gate, dtype)
        result = (_rounded(gate * _sigmoid(gate), dtype) * _rounded(value, dtype)).to(dtype)
        tma.store_wait(0)  # the tile before has left
        gl.thread_barrier()
        out_tile.store(gl.convert_layout(result, of_result, assert_trivial=True))
        fence_async_shared()  # the copy engine reads it by another way than it was written
        gl.thread_barrier()
        tma.async_copy_shared_to_global(out_desc, [(2 * row + PART) * ROWS, column * COLUMNS], out_tile)
    tma.store_wait(0)


@gluon.jit
def _kernel(x_desc, w_desc, out_desc, STAGES: gl.constexpr, GROUP: gl.constexpr, REGISTERS: gl.constexpr):
    """Sizes are the descriptors', so that nothing is compiled anew for others."""
    dtype: gl.constexpr = x_desc.dtype
    ROWS: gl.constexpr = x_desc.block_shape[0]
    COLUMNS: gl.constexpr = w_desc.block_shape[1]
    DEPTH: gl.constexpr = x_desc.block_shape[1]
    x_tiles = gl.allocate_shared_memory(dtype, [STAGES, ROWS, DEPTH], x_desc.layout)
    w_tiles = gl.allocate_shared_memory(dtype, [STAGES, 2, COLUMNS, DEPTH], w_desc.layout)
    out_tiles = gl.allocate_shared_memory(dtype, [2, ROWS // 2, COLUMNS], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    fence_async_shared()  # so that the copy engine finds them
    rows = (x_desc.shape[0] + ROWS - 1) // ROWS
    columns = w_desc.shape[1] // COLUMNS
    steps = x_desc.shape[1] // DEPTH
    tiles = (x_tiles, w_tiles, full, empty, rows, columns, steps)
    gl.warp_specialize(
        [
            (_multiply, (tiles, out_desc, out_tiles.index(0), GROUP, 0)),
            (_multiply, (tiles, out_desc, out_tiles.index(1), GROUP, 1)),
            (_copy, (tiles, x_desc, w_desc, GROUP)),
        ],
        [gl.num_warps(), 1],
        [REGISTERS, 24],
    )


def swiglu(x: Tensor, weight: Tensor) -> Tensor:
    """silu(x @ weight[:F].T) * (x @ weight[F:].T), summed in float32; both products, the SiLU and the result rounded.

    Args:
        x: [..., K] float16 or bfloat16, on a Hopper GPU.
        weight: [2F, K], likewise; see `applies`.

    Returns:
        [..., F]
    """
    return torch.ops.gap3d.swiglu(x, weight)


# An operation of torch's, by hand: as in `gluon_attention`.
torch.library.define("gap3d::swiglu", "(Tensor x, Tensor weight) -> Tensor")


@torch.library.register_fake("gap3d::swiglu")
def _shape(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0] // 2)


@torch.library.impl("gap3d::swiglu", "CUDA")
def _launched(x: Tensor, weight: Tensor) -> Tensor:
    out = _shape(x, weight)
    if not out.numel():
        return out
    channels, columns = x.shape[-1], out.shape[-1]
    x, weight = aligned(x.flatten(0, -2)), aligned(weight)
    rows = len(x)
    tiles = -(-rows // ROWS) * (columns // COLUMNS)
    # The weight as [2, F, K]: one copy brings gates and their values.
    _launch(
        (min(tiles, _multiprocessors(x.device)),),
        (
            Tiled(x, [rows, channels], [channels, 1], (ROWS, DEPTH)),
            Tiled(weight, [2, columns, channels], [columns * channels, channels, 1], (2, COLUMNS, DEPTH)),
            Tiled(out, [rows, columns], [columns, 1], (ROWS // 2, COLUMNS)),
        ),
        {"STAGES": STAGES, "GROUP": GROUP, "REGISTERS": REGISTERS},
        num_warps=WARPS,
    )
    return out


_launch = Launcher(_kernel, described)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether `swiglu` takes them: on CUDA in one half precision, no gradient, K and F in whole steps and tiles."""
    half = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and weight.dtype == x.dtype
    fits = x.shape[-1] % DEPTH == 0 and weight.shape[0] % (2 * COLUMNS) == 0
    return not torch.is_grad_enabled() and half and fits
