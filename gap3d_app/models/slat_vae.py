"""SLAT encoder, and the trunk that it shares with the decoders (trellis.md section 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.configs import SLatVaeConfig
from gap3d_app.nn.attention import Segments, packed_kernel_fits, permuted
from gap3d_app.nn.norms import sum_norm
from gap3d_app.nn.parallel import Beside
from gap3d_app.nn.torso import TorsoModule, init_linear
from gap3d_app.nn.transformer import TransformerBlock
from gap3d_app.sparse.attention import SparseTransformerBlock, attention_sets
from gap3d_app.sparse.tensor import SparseTensor


class SparseTransformerBase(TorsoModule):
    """Input linear, position embedding, transformer blocks. Module names give the public state-dict keys.

    Attributes:
        ordered: whether rows may go through the blocks in the order of their attention sets; off in what is measured
            as a reference.
    """

    config_class, ordered = SLatVaeConfig, True
    advance = staticmethod(TransformerBlock.forward)

    def __init__(self, config: SLatVaeConfig, in_channels: int) -> None:
        super().__init__()
        self.config = c = config
        self.input_layer = nn.Linear(in_channels, c.model_channels)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(
                c.model_channels, c.heads, c.mlp_ratio, *_attention_sets(c, index), qk_rms_norm=c.qk_rms_norm
            )
            for index in range(c.num_blocks)
        )
        self.apply(init_linear)

    @classmethod
    def from_args(cls, **args: Any) -> Any:
        """Build from the arguments of a public configuration file."""
        return cls(SLatVaeConfig.from_args(args))

    def trunk(self, x: SparseTensor) -> SparseTensor:
        """[T, C_in] -> [T, C] in the torso's dtype."""
        h = self.input_layer(x.feats) + x.sites.position_embedding(self.config.model_channels)
        h = x.replace(h.to(self.torso_dtype))
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else h.dtype
        if self.ordered and packed_kernel_fits(h.feats, dtype):
            return h.replace(self._sorted_blocks(h))
        for block in self.blocks:
            h = block(h)
        return h

    def _sorted_blocks(self, h: SparseTensor) -> Tensor:
        """The blocks on rows in the order of their attention sets.

        Every other layer takes rows one by one, so that one copy a block takes the place of four in its attention:
        queries, keys, values and the result.
        """
        if not torch.is_grad_enabled():
            return self._linked_blocks(h)
        rows, before = h.feats, None
        for block in self.blocks:
            rows, before = _moved(rows, h, before, block.sets), block.sets
            rows = self.advance(block, rows, _sorted_sets(h, block.sets))
        return _moved(rows, h, before, None)

    def _linked_blocks(self, h: SparseTensor) -> Tensor:
        """`_sorted_blocks`, with what stands between two layers made together."""
        rows, more, before, beside = h.feats, None, None, Beside(h.device)
        for index, block in enumerate(self.blocks):
            rows, source = sum_norm(rows, more, _numbers(h, before, block.sets), block.norm1)
            more, before = block.attn(source, segments=_sorted_sets(h, block.sets)), block.sets
            rows, source = sum_norm(rows, more, None, block.norm2)
            more = block.mlp(source)
            if index == 0:
                with beside:  # the other sets are asked for while the device has the first block to work at
                    for other in self.blocks[1:]:
                        attention_sets(h.sites, *other.sets)
        return sum_norm(rows, more, _numbers(h, before, None), None)[0]

    def head(self, h: SparseTensor, dtype: torch.dtype) -> SparseTensor:
        """Plain layer norm and output linear, in `dtype`."""
        feats = h.feats.to(dtype)
        return h.replace(self.out_layer(F.layer_norm(feats, feats.shape[-1:])))


Order = tuple[str, int | None, int] | None
"""Of rows: that of a block's attention sets, or that of the voxels."""


def _moved(rows: Tensor, x: SparseTensor, before: Order, after: Order) -> Tensor:
    """Rows of the voxels of `x` from one order into another."""
    numbers = _numbers(x, before, after)
    return rows if numbers is None else permuted(rows, numbers, _numbers(x, after, before))


def _sorted_sets(x: SparseTensor, sets: tuple[str, int | None, int]) -> Segments:
    """The attention sets of rows that lie in their order."""
    return replace(attention_sets(x.sites, *sets), order=None, places=None)


def _numbers(x: SparseTensor, before: Order, after: Order) -> Tensor | None:
    """[T] int64: where the rows of the order `after` stand in the order `before`; None when those are the same."""
    if before == after:
        return None

    def make() -> Tensor | None:
        back = None if before is None else attention_sets(x.sites, *before).places
        order = None if after is None else attention_sets(x.sites, *after).order
        if back is None or order is None:
            return order if back is None else back
        return back[order]

    return x.sites.cached(("row numbers", before, after), make)


def _attention_sets(config: SLatVaeConfig, index: int) -> tuple[str, int | None, int]:
    if config.attn_mode == "full":
        return "full", None, 0
    if config.attn_mode not in ("swin", "windowed"):
        raise ValueError(f"attn_mode {config.attn_mode!r} is not supported; 'full', 'swin', 'windowed' are")
    shifted = config.attn_mode == "swin" and index % 2 == 1
    return "windowed", config.window_size, config.window_size // 2 if shifted else 0


class SLatEncoder(SparseTransformerBase):
    """Voxel features [T, in_channels] -> posterior of the latent [T, latent_channels] (section 6.1)."""

    def __init__(self, config: SLatVaeConfig) -> None:
        super().__init__(config, config.in_channels)
        self.out_layer = nn.Linear(config.model_channels, 2 * config.latent_channels)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def posterior(self, x: SparseTensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [T, latent_channels]."""
        return self.head(self.trunk(x), x.dtype).feats.chunk(2, dim=-1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The posterior's mean."""
        return x.replace(self.posterior(x)[0])
