"""The plan of the Triton convolution in plain torch: the twin that `TapPlan` must equal bit for bit."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from gap3d_app.sparse.tap_plan import ALIGNMENT, BLOCKS, TapPlan


def tap_code(present: Tensor) -> Tensor:
    """[G, T] int32 whose bits say which taps a row has; of 27 the far corners decide first."""
    taps = present.shape[2]
    tap = torch.arange(taps, device=present.device)
    distance = (tap // 9 - 1).abs() + (tap // 3 % 3 - 1).abs() + (tap % 3 - 1).abs() if taps == 27 else tap
    bit = torch.empty_like(tap)
    bit[distance.argsort(stable=True)] = tap
    return (present * (1 << bit)).sum(2).int()


def tap_lists(index: Tensor, absent: int, groups: int, block: int) -> tuple[Tensor, Tensor]:
    """See `TapPlan.tap_lists`; `index` [K, P]."""
    needed = (index < absent).view(len(index), -1, block).any(2).t()
    # False sorts before True, so needed taps come first and stay in order.
    taps = (~needed).to(torch.uint8).argsort(dim=1, stable=True)
    group = torch.arange(len(taps), device=taps.device) * groups // len(taps)
    return (taps + group[:, None] * len(index)).int(), needed.sum(1).int()


def check_plan(neighbours: Tensor, columns: Tensor | None = None) -> None:
    """Codes, map, rows and lists of a plan and of its twin."""
    plan = TapPlan(neighbours, columns)
    if columns is None:
        columns = torch.arange(neighbours.shape[1], device=neighbours.device)[None]
    (rows, _), (groups, taps) = neighbours.shape, columns.shape
    assert (plan.absent, plan.rows, plan.taps, plan.groups) == (rows, groups * rows, taps, groups)
    index = neighbours[:, columns].transpose(0, 1)
    codes, order = tap_code(index < rows).sort(dim=1, stable=True)
    out_row = order * groups + torch.arange(groups, device=order.device)[:, None]
    extra = -rows % ALIGNMENT
    index = pad(index.gather(1, order[:, :, None].expand(-1, -1, taps)), (0, 0, 0, extra), value=rows)
    index = index.flatten(0, 1).t().contiguous()
    assert torch.equal(plan.codes.view(groups, rows).int() & ((1 << taps) - 1), codes)
    assert plan.index.is_contiguous() and plan.out_row.is_contiguous()
    pairs = [(plan.index, index.int()), (plan.out_row, pad(out_row, (0, extra), value=-1).flatten().int())]
    plan.prepare()
    for block in BLOCKS:
        pairs += zip(plan.lists[block], tap_lists(index, rows, groups, block), strict=True)
    for there, here in pairs:
        assert there.dtype == here.dtype and torch.equal(there, here)


def random_map(rows: int, columns: int, absent: float, kinds: int = 9, device: str = "cpu") -> Tensor:
    """[rows, columns] int32 rows, the number of rows for none; rows lack the same taps as many others do."""
    lacks = torch.rand(kinds, columns, device=device) < absent
    found = torch.randint(0, max(rows, 1), (rows, columns), device=device)
    return found.masked_fill_(lacks[torch.randint(0, kinds, (rows,), device=device)], rows).int()
