"""Guidance of words beside a picture: limited differences, steps and rows in which it acts."""

import pytest
import torch

from gap3d_app.models.edit_guidance import EditGuidance, EditGuided, limited
from gap3d_app.models.fast_flow import FastFlow
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.grid_sampling import generate_grid, grid_sampler
from gap3d_app.models.token_grid import GridState
from tests.models.test_fast_paths import awake
from tests.models.test_grid_dit import TINY, random_state

GUIDANCE = EditGuidance(strength=2.0, limit=0.01, interval=(0.5, 1.0), words="the same")
SAMPLER = grid_sampler(4)  # times 1, 0.75, 0.5, 0.25


def test_grids_are_limited_by_their_largest_part() -> None:
    torch.manual_seed(0)
    patches, token = 0.01 * torch.randn(3, 5, 4), torch.randn(3, 4) * torch.tensor([[0.01], [3.0], [0.0]])
    cut_patches, cut_token = limited((patches, token), 0.2)
    assert torch.equal(cut_patches[0], patches[0]) and torch.equal(cut_token[0], token[0])
    assert torch.equal(cut_patches[2], patches[2]) and not cut_token[2].any()
    assert cut_token[1].square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)
    factor = 0.2 / token[1].square().mean().sqrt()
    assert torch.allclose(cut_token[1], factor * token[1]) and torch.allclose(cut_patches[1], factor * patches[1])


@pytest.fixture
def case() -> tuple[GridDiT, torch.Tensor, torch.Tensor, GridState]:
    torch.manual_seed(0)
    return awake(GridDiT(TINY)), torch.randn(2, 6, 20), torch.randn(2, 6, 20), random_state()


@torch.no_grad()
def test_velocities(case) -> None:
    """With v and k predicted for the prompt and for the kept picture: v + 2 (v - k), cut; u stays as it is."""
    dit, cond, kept, state = case
    times = torch.tensor([[1000.0], [250.0]])
    early, late = EditGuided(dit, kept, GUIDANCE).prepare([cond, torch.zeros_like(cond)], times)
    time = torch.full((2,), 1000.0)
    v, k, u = (dit(*state, c, time) for c in (cond, kept, torch.zeros_like(cond)))
    moved, null = EditGuided(dit, kept, GUIDANCE).velocities(tuple(state), early)
    difference = [(a - b).flatten(1) for a, b in zip(v, k, strict=True)]
    size = torch.stack([part.square().mean(1).sqrt() for part in difference]).amax(0)
    assert (size > GUIDANCE.limit).all()
    for part in range(3):
        cut = GUIDANCE.limit * difference[part] / size[:, None]
        assert torch.allclose(moved[part], v[part] + 2 * cut.view_as(v[part]), atol=1e-5)
        assert torch.allclose(null[part], u[part], atol=1e-5)
    plain = dit.velocities(tuple(state), dit.prepare([cond], times)[1])[0]
    after = EditGuided(dit, kept, GUIDANCE).velocities(tuple(state), late[:1])[0]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, plain, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_without_a_picture_are_left_alone(case, threads) -> None:
    dit, cond, kept, noise = case
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # with two the predictions run side by side
    try:
        plain = generate_grid(dit, cond, noise, SAMPLER)
        guided = generate_grid(EditGuided(dit, torch.stack([kept[0], cond[1]]), GUIDANCE), cond, noise, SAMPLER)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(guided[1], plain[1], atol=1e-5)
    assert not torch.allclose(guided[0], plain[0], atol=1e-3)


@torch.no_grad()
def test_the_fast_way_gives_the_same(case) -> None:
    dit, cond, kept, noise = case
    noise = GridState(*(part[:1] for part in noise))
    slow = generate_grid(EditGuided(dit, kept[:1], GUIDANCE), cond[:1], noise, SAMPLER)
    fast = generate_grid(EditGuided(FastFlow(dit), kept[:1], GUIDANCE), cond[:1], noise, SAMPLER)
    assert torch.allclose(fast, slow, atol=1e-4)
