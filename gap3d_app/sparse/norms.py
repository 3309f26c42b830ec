"""Group norm of sparse tensors (trellis.md section 4.4), and the SiLU that follows it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.kernels import triton_runs
from gap3d_app.sparse.tensor import SparseTensor


class SparseGroupNorm32(nn.GroupNorm):
    """Group norm over the voxels of each batch element separately, affine, in float32.

    Args:
        num_groups: G, divides the channels.
        num_channels: C.
        eps: added to the variance.

    Attributes:
        fused: whether `norm_silu` may make the norm by a Triton kernel; `triton_runs()` at first.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_groups, num_channels, eps=eps)
        self.fused = triton_runs()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[T, C] -> [T, C], dtype kept."""
        segments = x.sites.segments
        padded = segments.pad(x.feats.float())
        return x.replace(segments.unpad(self._normalise(padded, segments.mask)).to(x.dtype))

    def _normalise(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            volume = x.transpose(1, 2)
            return F.group_norm(volume, self.num_groups, self.weight, self.bias, self.eps).transpose(1, 2)
        batch, length, channels = x.shape
        keep = mask[:, :, None, None].to(x.dtype)
        groups = x.view(batch, length, self.num_groups, -1)
        count = keep.sum(1, keepdim=True) * groups.shape[-1]
        mean = (groups * keep).sum((1, 3), keepdim=True) / count
        centred = groups - mean
        variance = (centred * keep).square().sum((1, 3), keepdim=True) / count
        normed = (centred * (variance + self.eps).rsqrt()).view(batch, length, channels)
        return normed * self.weight + self.bias


class SparseSiLU(nn.Module):
    """SiLU on the features of a sparse tensor."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(F.silu(x.feats))


def norm_silu(layers: nn.Sequential, x: SparseTensor) -> SparseTensor:
    """`layers(x)` for a `SparseGroupNorm32` and a `SparseSiLU`: one batch element on CUDA in three kernels."""
    norm = layers[0]
    if norm.fused and x.batch_size == 1:
        from gap3d_app.sparse import triton_norm  # not every machine has triton

        if triton_norm.applies(x.feats, norm.weight, norm.num_groups):
            feats = triton_norm.group_norm_silu(x.feats, norm.num_groups, norm.weight, norm.bias, norm.eps)
            return x.replace(feats)
    return layers(x)
