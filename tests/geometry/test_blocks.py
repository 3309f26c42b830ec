"""Places in tables for the cells of stored blocks."""

import pytest
import torch

from gap3d_app.geometry.blocks import CELLS, BlockGrid, Blocks, widened
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.geometry.lattice import ActiveCubes
from tests.geometry.random_cubes import random_cubes
from tests.geometry.shapes import cubes, sphere


@pytest.fixture
def some_blocks() -> Blocks:
    """Of a few cubes in a grid that is not a cube."""
    coords = torch.tensor([[3, 40, 17], [4, 40, 17], [21, 2, 9]])
    grid = BlockGrid((coords.amin(0).tolist(), coords.amax(0).tolist()), coords.device)
    return Blocks(grid, grid.marked(coords)[1])


def all_keys(blocks: Blocks) -> torch.Tensor:
    return blocks.keys(torch.arange(blocks.count - CELLS))


def test_keys_add_up_and_tell_the_cell(some_blocks):
    grid, step = some_blocks.grid, torch.tensor([[1, -1, 1]])
    ends = zip(grid.low, grid.shape, strict=True)
    cells = torch.cartesian_prod(*[torch.arange(low, low + 4 * n, 3) for low, n in ends])
    keys = grid.keys(cells)
    assert torch.equal(grid.coords(keys), cells)
    assert (keys.diff() > 0).all() and 0 <= keys.min() and keys.max() < grid.limit
    inner = cells[((cells > torch.tensor(grid.low)).all(1)) & (cells[:, 0] < grid.low[0] + 4 * grid.shape[0] - 1)]
    assert torch.equal(grid.keys(inner + step), grid.keys(inner) + grid.steps(step))


def test_every_stored_cell_has_a_place_and_others_share_the_last_block(some_blocks):
    keys = all_keys(some_blocks)
    assert torch.equal(some_blocks.places(keys), torch.arange(len(keys)))
    ends = zip(some_blocks.grid.low, some_blocks.grid.shape, strict=True)
    cells = torch.cartesian_prod(*[torch.arange(low, low + 4 * n) for low, n in ends])
    places = some_blocks.places(some_blocks.grid.keys(cells))
    assert len(places[places < len(keys)].unique()) == len(keys) == (places < len(keys)).sum()
    assert places.max() < some_blocks.count


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_table_one_cell_further(some_blocks, axis, step):
    table = torch.randint(1, 1000, (some_blocks.count,), generator=torch.Generator().manual_seed(0))
    table[-CELLS:] = 0  # what is not stored
    offset = some_blocks.grid.steps(step * torch.eye(3, dtype=torch.int64)[axis])
    expected = table[some_blocks.places(all_keys(some_blocks) + offset)]
    assert torch.equal(some_blocks.shifted(table, axis, step)[:-CELLS], expected)


def test_volumes_and_tables(some_blocks):
    grid = some_blocks.grid
    table = torch.rand(some_blocks.count, generator=torch.Generator().manual_seed(0)) < 0.3
    table[-CELLS:] = False
    cells = grid.coords(all_keys(some_blocks)) - torch.tensor(grid.low) - torch.tensor(grid.start)
    there = ((cells >= 0) & (cells < torch.tensor(grid.volume))).all(1)
    table[:-CELLS] &= there
    volume = some_blocks.spread(table)
    assert list(volume.shape) == grid.volume and volume.sum() == table.sum()
    assert torch.equal(volume[tuple(cells[there].T)], table[:-CELLS][there])
    assert torch.equal(some_blocks.gathered(volume), table)
    some, not_all = grid.some_and_open(volume)
    assert not_all.all() and some.sum() == table[:-CELLS].view(-1, CELLS).any(1).sum()


def test_cells_within_the_grid(some_blocks):
    cells = some_blocks.grid.coords(all_keys(some_blocks))
    within = some_blocks.within(3, 20)
    assert torch.equal(within[:-CELLS], ((cells >= 3) & (cells <= 20)).all(1)) and not within[-CELLS:].any()


def test_widened_to_one_side():
    blocks = torch.zeros(5, 5, 5, dtype=torch.bool)
    blocks[2, 2, 2] = True
    assert widened(blocks).nonzero().aminmax(dim=0)[0].tolist() == [1, 1, 1] and widened(blocks).sum() == 27
    assert widened(blocks, 1, 0).nonzero().unique().tolist() == [1, 2] and widened(blocks, 1, 0).sum() == 8
    assert widened(blocks, 0, 1).nonzero().unique().tolist() == [2, 3]


def test_tables_are_as_large_as_the_surface_not_its_box():
    """A shell two voxels thick that fills the published decoder's grid: 4^3 cubes of each voxel."""
    voxels = torch.cartesian_prod(*[torch.arange(64)] * 3)
    voxels = voxels[((voxels - 31.5).norm(dim=1) - 30).abs() < 1]
    coords = (4 * voxels[:, None] + torch.cartesian_prod(*[torch.arange(4)] * 3)).view(-1, 3)
    assert 22_000 < len(voxels) < 23_000
    assert ActiveCubes(coords, torch.zeros(len(coords), 53), 256).blocks.count < 0.25 * 256**3


@pytest.mark.parametrize("solid", [False, True])
def test_the_way_between_two_objects_costs_next_to_nothing(solid):
    """In a grid whose cells would not fit into memory one by one."""
    coords, feats = cubes(sphere(), 24)
    feats = feats.double()
    far = torch.tensor([4, 960, 480]) if not solid else torch.tensor([0, 40, 8])
    there = extract(torch.cat([coords, coords + far]), feats.repeat(2, 1), 1000, solid=solid)
    alone = extract(coords, feats, 1000, solid=solid)
    half = len(alone.vertices)
    assert len(there.vertices) == 2 * half and len(there.faces) == 2 * len(alone.faces)
    moved = torch.cat([alone.vertices, alone.vertices + far / 1000])
    for made, expected in zip(there.vertices.aminmax(dim=0), moved.aminmax(dim=0), strict=True):
        assert torch.allclose(made, expected)
    assert torch.allclose(there.vertices.sum(0), moved.sum(0), atol=1e-6)


def test_training_on_closed_surfaces_has_those_of_inference():
    """Closing them gives other blocks places, after the touched vertices were listed."""
    coords, feats = random_cubes(9, 0.4, 53)
    trained = extract(coords, feats, 9, training=True, solid=True)
    plain = extract(coords, feats, 9, solid=True)
    assert torch.equal(trained.vertices[: len(plain.vertices)], plain.vertices)
    assert len(trained.faces) == 2 * len(plain.faces) and trained.reg_loss.isfinite()
