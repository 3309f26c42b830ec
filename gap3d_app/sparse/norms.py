"""Group norm of sparse tensors (trellis.md section 4.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.sparse.tensor import SparseTensor


class SparseGroupNorm32(nn.GroupNorm):
    """Group norm over the voxels of each batch element separately, affine, in float32.

    Args:
        num_groups: G, divides the channels.
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_groups, num_channels, eps=eps)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[T, C] -> [T, C], dtype kept."""
        segments = x.sites.segments
        padded = segments.pad(x.feats.float())
        return x.replace(segments.unpad(self._normalise(padded, segments.mask)).to(x.dtype))

    def _normalise(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self._by_rows(x) if x.is_cuda and not torch.is_grad_enabled() else self._by_kernel(x)
        batch, length, channels = x.shape
        keep = mask[:, :, None, None].to(x.dtype)
        groups = x.view(batch, length, self.num_groups, -1)
        count = keep.sum(1, keepdim=True) * groups.shape[-1]
        mean = (groups * keep).sum((1, 3), keepdim=True) / count
        centred = groups - mean
        variance = (centred * keep).square().sum((1, 3), keepdim=True) / count
        normed = (centred * (variance + self.eps).rsqrt()).view(batch, length, channels)
        return normed * self.weight + self.bias

    def _by_kernel(self, x: Tensor) -> Tensor:
        volume = x.transpose(1, 2)
        return F.group_norm(volume, self.num_groups, self.weight, self.bias, self.eps).transpose(1, 2)

    def _by_rows(self, x: Tensor) -> Tensor:
        """The same without turning [B, L, C] into [B, C, L] and back, which takes longer than the norm; no gradient.

        Sums run down the columns, as memory lies; a group's statistics are the means of its columns'. For CUDA: on a
        processor it saves little, and the column norm adds up less exactly.
        """
        centred = x - self._of_groups(x.mean(1))
        variance = torch.linalg.vector_norm(centred, dim=1).square() / x.shape[1]
        scale = (self._of_groups(variance) + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias, centred, scale)

    def _of_groups(self, columns: Tensor) -> Tensor:
        """[B, C] -> [B, 1, C], every column's value replaced by the mean of its group."""
        groups = columns.unflatten(-1, (self.num_groups, -1))
        return groups.mean(-1, keepdim=True).expand_as(groups).flatten(-2)[:, None]
