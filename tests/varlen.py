"""Stands for the variable-length attention that torch has on CUDA only."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


@pytest.fixture
def varlen_on_cpu(monkeypatch) -> None:
    """torch's variable-length attention exists on CUDA only; the same set by set."""

    @torch.compiler.disable
    def attend(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, *longest: int) -> Tensor:
        parts = []
        for a, b, c, d in zip(q_ends[:-1], q_ends[1:], k_ends[:-1], k_ends[1:], strict=True):
            rows = [x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d])]
            parts.append(F.scaled_dot_product_attention(*rows).transpose(0, 1))
        return torch.cat(parts)

    import torch.nn.attention.varlen as varlen

    monkeypatch.setattr(varlen, "varlen_attn", attend)
