"""Layers of the GridDiT (spec gap3d.md 3.3); module names give the released state-dict keys."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.kernels import gluon_fits, triton_fits
from gap3d_app.models.grid_config import GridDiTConfig
from gap3d_app.nn.attention_kernels import attend
from gap3d_app.nn.embeddings import timestep_embedding
from gap3d_app.nn.grid_norms import gated_sum, gated_sum_norm, scaled_norm
from gap3d_app.nn.grid_rope import Rope, norm_rotate
from gap3d_app.nn.modulated_norms import modulated_norm
from gap3d_app.nn.norms import LayerNorm32, RMSNorm

TIME_CHANNELS = 256


class Cross(NamedTuple):
    """What one block's cross attention reads for some consecutive samples of a batch.

    key ``[B, heads, L, head_dim]`` and value of the same shape, mask ``[B, 1, 1, L]`` bool or None; without a key
    the value ``[B, heads, 1, head_dim]`` is the attention's result whatever the query.
    """

    key: Tensor | None
    value: Tensor
    mask: Tensor | None = None


class Mlp(nn.Module):
    """linear_1, activation, linear_2."""

    def __init__(self, dim_in: int, dim: int, activation: nn.Module):
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.activation = activation
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))


class TimeCaptionEmbed(nn.Module):
    """Modulation vector: time through an MLP plus the mean projected condition."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        width = config.modulation_dim
        self.timestep_embedder = Mlp(TIME_CHANNELS, width, nn.SiLU())
        self.caption_embedder = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, width))

    def time(self, timestep: Tensor) -> Tensor:
        dtype = self.timestep_embedder.linear_1.weight.dtype
        return self.timestep_embedder(timestep_embedding(timestep, TIME_CHANNELS).to(dtype))

    def pooled(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        wide = tokens.float()
        if mask is None:
            mean = wide.mean(dim=1)
        else:
            weight = mask.to(wide).unsqueeze(-1)
            mean = (wide * weight).sum(1) / weight.sum(1).clamp_min(1)
        return self.caption_embedder(mean.to(tokens.dtype))


def stacked_weight(layers: list[nn.Linear]) -> Tensor:
    """The weights of layers without bias, one above the other; the layers keep theirs as views of it."""
    whole = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, whole.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    return whole


class GridAttention(nn.Module):
    """Projections without bias; LayerNorm over all heads of queries and keys together.

    Attributes:
        kernel: of `attention_kernels.KERNELS`.
        fused: whether one kernel norms and turns, see `norm_rotate`.
    """

    kernel, fused = "torch", False

    def __init__(self, config: GridDiTConfig, output: bool):
        super().__init__()
        kv_dim = config.n_kv_heads * config.head_dim
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.to_k = nn.Linear(config.dim, kv_dim, bias=False)
        self.to_v = nn.Linear(config.dim, kv_dim, bias=False)
        self.norm_q = nn.LayerNorm(config.dim)
        self.norm_k = nn.LayerNorm(kv_dim)
        if output:
            self.to_out = nn.ModuleList([nn.Linear(config.dim, config.dim, bias=False)])
        self.register_buffer("stacked", None, persistent=False)

    def stack(self) -> None:
        """From now on one product makes queries, keys and values; for weights that stay where they are."""
        self.stacked = stacked_weight([self.to_q, self.to_k, self.to_v])

    def projected(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values of the same tokens ``[B, N, dim]``, neither normed nor turned nor by heads."""
        layers = [self.to_q, self.to_k, self.to_v]
        if self.stacked is None:
            return [layer(x) for layer in layers]
        return list(F.linear(x, self.stacked).split([layer.out_features for layer in layers], dim=-1))

    def query_key_value(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Of the same tokens ``[B, N, dim]``, each ``[B, heads, N, head_dim]``."""
        q, k, v = self.projected(x)
        q, k = norm_rotate([(q, self.norm_q), (k, self.norm_k)], rope, self.fused)
        return self.by_heads(q), self.spread(k), self.spread(v)

    def query(self, x: Tensor, rope: Rope) -> Tensor:
        return self.by_heads(*norm_rotate([(self.to_q(x), self.norm_q)], rope, self.fused))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of a condition, which does not turn."""
        return self.spread(self.norm_k(self.to_k(x))), self.value(x)

    def value(self, x: Tensor) -> Tensor:
        return self.spread(self.to_v(x))

    def by_heads(self, query: Tensor) -> Tensor:
        """``[B, N, dim]`` to ``[B, heads, N, head_dim]``."""
        return self._heads(query, self.n_heads)

    def spread(self, x: Tensor) -> Tensor:
        """Keys or values by heads, each repeated for the heads that share it."""
        x, group = self._heads(x, self.n_kv_heads), self.n_heads // self.n_kv_heads
        return x.repeat_interleave(group, dim=1) if group > 1 else x  # repeated in place: 0, 0, .., 1, 1, ..

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """SwiGLU: a linear layer of the values, times the SiLU of their gates, and a linear layer.

    Attributes:
        fused: whether one kernel may make the gated values.
    """

    fused = False

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.linear_1 = nn.Linear(dim, inner, bias=False)
        self.linear_2 = nn.Linear(inner, dim, bias=False)
        self.linear_3 = nn.Linear(dim, inner, bias=False)
        self.register_buffer("stacked", None, persistent=False)

    def stack(self) -> None:
        """From now on one product makes gates and values; for weights that stay where they are."""
        self.stacked, self.fused = stacked_weight([self.linear_1, self.linear_3]), gluon_fits()

    def unstack(self) -> None:
        """Undo `stack`."""
        self.stacked, self.fused = None, False

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self._gated(x))

    def _gated(self, x: Tensor) -> Tensor:
        if self.stacked is None:
            return F.silu(self.linear_1(x)) * self.linear_3(x)
        if self.fused:
            from gap3d_app.nn import gluon_swiglu  # not every machine has it

            if gluon_swiglu.applies(x, self.stacked):
                return gluon_swiglu.swiglu(x, self.stacked)
        gate, value = F.linear(x, self.stacked).chunk(2, dim=-1)
        return F.silu(gate) * value


class ModulatedNorm(nn.Module):
    """RMSNorm and the linear layer whose four parts modulate a block."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.linear = nn.Linear(config.modulation_dim, 4 * config.dim)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)


class GridBlock(nn.Module):
    """Self and gated cross attention from one query source, then a gated feed-forward (spec 3.3).

    Attributes:
        fused: whether norms are kernels together with what stands around them, see `grid_norms`.
    """

    fused = False

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.gate = nn.Parameter(torch.zeros(config.n_heads))
        self.attn1 = GridAttention(config, output=False)
        self.attn2 = GridAttention(config, output=True)
        self.feed_forward = GatedFeedForward(dim, config.ffn_dim)
        self.norm1 = ModulatedNorm(config)
        self.norm1_context = RMSNorm(dim, eps=eps)
        self.norm2 = RMSNorm(dim, eps=eps)
        self.ffn_norm1 = RMSNorm(dim, eps=eps)
        self.ffn_norm2 = RMSNorm(dim, eps=eps)

    def cross_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.attn2.key_value(self.norm1_context(tokens))

    def cross_value(self, tokens: Tensor) -> Tensor:
        return self.attn2.value(self.norm1_context(tokens))

    def stack(self) -> None:
        """Join products of the same tokens, and norms with what follows; the numbers stay the same up to rounding."""
        self.attn1.stack()
        self.feed_forward.stack()
        self.fused = self.attn1.fused = self.attn2.fused = triton_fits()

    def unstack(self) -> None:
        """Undo `stack`, so that the weights may move; what was joined goes when the last of them has."""
        self.attn1.stacked = None
        self.feed_forward.unstack()
        self.fused = self.attn1.fused = self.attn2.fused = False

    def enter(self, x: Tensor, modulation: Tensor) -> Tensor:
        """What the attentions of the first block read of x ``[B, N, dim]``."""
        return scaled_norm(x, self.norm1.norm, modulation.unsqueeze(1).chunk(4, dim=-1)[0], self.fused)

    def forward(self, x: Tensor, modulation: Tensor, rope: Rope, crosses: list[Cross]) -> Tensor:
        """x ``[B, N, dim]``; modulation ``[B, 4 dim]`` from `norm1.linear`; crosses in the order of the samples."""
        return self.linked(x, self.enter(x, modulation), modulation, rope, crosses)[0]

    def linked(
        self,
        x: Tensor,
        source: Tensor,
        modulation: Tensor,
        rope: Rope,
        crosses: list[Cross],
        following: tuple[nn.RMSNorm, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`forward`, and what the attentions of the following block read of its result, which is made with it.

        source ``[B, N, dim]`` from the block before, or from `enter`; following: `norm1.norm` of the next block, and
        its modulation.
        """
        _, gate_attention, scale_ffn, gate_ffn = modulation.unsqueeze(1).chunk(4, dim=-1)
        out = self.attn2.to_out[0](self._mixed(source, rope, crosses))
        x, source = gated_sum_norm(x, out, gate_attention, self.norm2, self.ffn_norm1, scale_ffn, self.fused)
        y = self.feed_forward(source)
        if following is None:
            return gated_sum(x, y, gate_ffn, self.ffn_norm2, self.fused), None
        norm, scale = following[0], following[1].unsqueeze(1).chunk(4, dim=-1)[0]
        return gated_sum_norm(x, y, gate_ffn, self.ffn_norm2, norm, scale, self.fused)

    def _mixed(self, source: Tensor, rope: Rope, crosses: list[Cross]) -> Tensor:
        """Self attention plus gated cross attention of `source`, ``[B, N, dim]``."""
        if self.attn1.kernel == "gluon" and _joinable(self.attn1.by_heads(source), crosses):
            return self._joined(source, rope, *crosses)
        q, k, v = self.attn1.query_key_value(source, rope)
        within = attend(q, k, v, kernel=self.attn1.kernel)
        counts = [len(cross.value) for cross in crosses]
        parts = zip(within.split(counts), source.split(counts), crosses, strict=True)
        # Joined last, so that a compiler writes each part to its place at once.
        return torch.cat([self._joint(*part, rope) for part in parts])

    def _joined(self, source: Tensor, rope: Rope, asked: Cross, null: Cross | None = None) -> Tensor:
        """`_mixed` by one kernel for norms and rotations and one for both attentions."""
        from gap3d_app.nn import gluon_attention  # not every machine has it

        own, given = self.attn1, self.attn2
        q, k, v = own.projected(source)
        query = given.to_q(source[: len(asked.value)])
        parts = [(q, own.norm_q), (k, own.norm_k), (query, given.norm_q)]
        q, k, query = norm_rotate(parts, rope.scaled, self.fused)
        within, across = (own.by_heads(q), own.spread(k), own.spread(v)), given.by_heads(query)
        constant = None if null is None else null.value
        return gluon_attention.joint_attention(*within, (across, asked.key, asked.value), constant, self.gate)

    def _joint(self, within: Tensor, source: Tensor, cross: Cross, rope: Rope) -> Tensor:
        """Self attention ``[B, heads, N, head_dim]`` and the gated cross attention of `source`: ``[B, N, dim]``."""
        across = self._across(source, cross, rope)
        gate = self.gate.tanh().to(across.dtype).view(1, -1, 1, 1)
        return torch.addcmul(within, across, gate).transpose(1, 2).flatten(2)

    def _across(self, source: Tensor, cross: Cross, rope: Rope) -> Tensor:
        if cross.key is None:
            return cross.value.expand(-1, -1, source.shape[1], -1)
        return attend(self.attn2.query(source, rope), cross.key, cross.value, cross.mask, self.attn2.kernel)


def _joinable(heads: Tensor, crosses: list[Cross]) -> bool:
    """Whether one kernel makes both attentions: under an unmasked condition, or that and the null condition.

    heads: ``[B, heads, N, head_dim]`` in the dtype of the queries.
    """
    from gap3d_app.nn import gluon_attention

    asked, *null = crosses
    alone = len(null) == 0 or len(null) == 1 and null[0].key is None
    return gluon_attention.applies(heads) and asked.key is not None and asked.mask is None and alone


def advance(block: GridBlock, *given: Any) -> tuple[Tensor, Tensor | None]:
    """One block; a function, so that one compilation of it serves all blocks."""
    return block.linked(*given)


class OutputHead(nn.Module):
    """Norm scaled by time and condition, and the last product.

    Attributes:
        fused: whether the norm and its scale are one kernel.
    """

    fused = False

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.modulation_dim, config.dim)
        self.norm = LayerNorm32(config.dim, eps=1e-6)
        self.linear_2 = nn.Linear(config.dim, config.in_channels)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """scale ``[B, dim]`` from `linear_1`."""
        return self.linear_2(modulated_norm(x, self.norm, None, scale.unsqueeze(1), self.fused))


class PatchEmbed(nn.Module):
    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.proj = nn.Linear(config.in_channels, config.dim)
