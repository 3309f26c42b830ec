"""BatchedMuon against torch's Muon, and what orthogonalisation does to singular values."""

import pytest
import torch

from train.muon import BatchedMuon, orthogonalized


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)])
def test_singular_values_move_to_one(shape):
    generator = torch.Generator().manual_seed(3)
    made = orthogonalized(torch.randn(3, *shape, generator=generator))
    values = torch.linalg.svdvals(made)
    assert made.shape == (3, *shape)
    assert values.max() < 1.3 and values.median() > 0.65


def test_steps_match_torchs_muon():
    generator = torch.Generator().manual_seed(5)
    start = [torch.randn(shape, generator=generator) for shape in ((16, 32), (16, 32), (32, 16), (20, 20))]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    settings = {"lr": 1e-2, "weight_decay": 0.05}
    optimizers = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        assert (a - b).norm() < 0.03 * moved  # torch iterates in bfloat16


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        BatchedMuon([torch.nn.Parameter(torch.zeros(3))], lr=1e-3)
