"""The plan of the Triton convolution in plain torch: the twin that `TapPlan` must equal bit for bit."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from gap3d_app.sparse.tap_plan import BLOCKS, FEW_ROWS, TapPlan


def tap_code(present: Tensor) -> Tensor:
    """[G, T] int32 whose bits say which taps a row has; of 27 the far corners decide first."""
    taps = present.shape[2]
    tap = torch.arange(taps, device=present.device)
    distance = (tap // 9 - 1).abs() + (tap // 3 % 3 - 1).abs() + (tap % 3 - 1).abs() if taps == 27 else tap
    bit = torch.empty_like(tap)
    bit[distance.argsort(stable=True)] = tap
    return (present * (1 << bit)).sum(2).int()


def check_plan(neighbours: Tensor, columns: Tensor | None = None) -> None:
    """Lists, rows and map of a plan and of its twin, for tiles of both sizes."""
    every = columns
    if columns is None:
        every = torch.arange(neighbours.shape[1], device=neighbours.device)[None]
    (rows, _), (groups, taps) = neighbours.shape, every.shape
    found = neighbours[:, every].transpose(0, 1)
    _, order = tap_code(found < rows).sort(dim=1, stable=True)
    found = found.gather(1, order[:, :, None].expand(-1, -1, taps))
    out_row = order * groups + torch.arange(groups, device=order.device)[:, None]
    assert TapPlan(neighbours, columns).block == (BLOCKS[0] if groups * rows < FEW_ROWS else BLOCKS[1])
    for block in BLOCKS:
        plan = TapPlan(neighbours, columns, block)
        assert (plan.absent, plan.rows, plan.width, plan.groups, plan.block) == (
            rows, groups * rows, taps, groups, block,
        )  # fmt: skip
        extra = -rows % block
        tiles = pad(found, (0, 0, 0, extra), value=rows).view(-1, block, taps)
        needed = (tiles < rows).any(1)
        # False sorts before True, so needed taps come first and stay in order.
        own = (~needed).to(torch.uint8).argsort(dim=1, stable=True)
        group = torch.arange(len(own), device=own.device) * groups // max(len(own), 1)
        index = tiles.gather(2, own[:, None].expand(-1, block, -1)).transpose(1, 2)
        pairs = (
            (plan.taps, own + group[:, None] * taps),
            (plan.counts, needed.sum(1)),
            (plan.index, index),
            (plan.out_row, pad(out_row, (0, extra), value=-1).flatten()),
        )
        for there, here in pairs:
            assert there.is_contiguous() and there.dtype == torch.int32 and torch.equal(there, here.int())


def random_map(rows: int, columns: int, absent: float, kinds: int = 9, device: str = "cpu") -> Tensor:
    """[rows, columns] int32 rows, the number of rows for none; rows lack the same taps as many others do."""
    lacks = torch.rand(kinds, columns, device=device) < absent
    found = torch.randint(0, max(rows, 1), (rows, columns), device=device)
    return found.masked_fill_(lacks[torch.randint(0, kinds, (rows,), device=device)], rows).int()
