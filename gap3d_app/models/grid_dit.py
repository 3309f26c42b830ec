"""GridDiT: the flow-matching transformer from prompt condition to token grid.

Lumina Next-DiT over the plain sequence class, registers, patches; gated cross attention to the projected
condition; time and pooled condition modulate every block (spec gap3d.md 3). Module names give the released
state-dict keys behind ``model.dit.``, hence the inner ``model`` and the unlovely ``attn2.to_out.0``.

Notable: the condition is constant over a sampling run, so its projection and every block's cross-attention
keys and values can be computed once (`GridDiT.condition_cache`) and passed to each step.
"""

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.token_grid import GridState, unpack_grid
from gap3d_app.nn.attention import all_tokens_equal
from gap3d_app.nn.attention_kernels import attend
from gap3d_app.nn.embeddings import timestep_embedding
from gap3d_app.nn.grid_rope import Rope, rotate, tiled_rope
from gap3d_app.nn.norms import RMSNorm
from gap3d_app.nn.parallel import run_branches, side_by_side

TIME_CHANNELS = 256


@dataclass
class GridDiTConfig:
    """Sizes of a GridDiT under the released constructor names.

    `ffn_dim` is the feed-forward width; left at None it follows the released rule, int(8/3 dim) rounded up to
    `multiple_of` (4864 at full size; library versions disagree, so a loader takes it from the tensor).
    `input_size` is the side of the square grid used for sampling; the network takes any height and width.
    The last four fields name released options that have one supported value.
    """

    input_size: int = 37
    in_channels: int = 1024
    dim: int = 1792
    n_layers: int = 24
    n_heads: int = 28
    n_kv_heads: int | None = None
    ffn_dim: int | None = None
    multiple_of: int = 256
    norm_eps: float = 1e-5
    latent_embedding_size: int = 2048
    num_register_tokens: int = 4
    patch_size: int = 1
    qk_norm: bool = True
    learn_sigma: bool = False
    ffn_dim_multiplier: float | None = None
    summary_token_dim: int | None = None
    modulation_dim: int = field(init=False)

    def __post_init__(self) -> None:
        if (self.patch_size, self.qk_norm, self.learn_sigma) != (1, True, False):
            raise ValueError("GridDiT supports patch_size 1, qk_norm true and learn_sigma false only")
        if self.ffn_dim_multiplier is not None or self.summary_token_dim is not None:
            raise ValueError("GridDiT supports neither ffn_dim_multiplier nor summary_token_dim")
        self.n_kv_heads = self.n_kv_heads or self.n_heads
        if self.dim % (4 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise ValueError("dim must divide into heads of a multiple of 4, heads into key/value heads")
        if self.ffn_dim is None:
            inner = int(2 * (4 * self.dim) / 3)
            self.ffn_dim = -(-inner // self.multiple_of) * self.multiple_of
        self.modulation_dim = min(self.dim, 1024)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    def to_args(self) -> dict:
        """Constructor arguments as plain JSON values."""
        args = asdict(self)
        args.pop("modulation_dim")
        return args

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], input_size: int = 37) -> "GridDiTConfig":
        """Sizes read from tensor shapes (keys start with ``model.``); the release stores no config."""
        dim, in_channels = state["model.patch_embedder.proj.weight"].shape
        heads = state["model.layers.0.gate"].shape[0]
        layers = {key.split(".")[2] for key in state if key.startswith("model.layers.")}
        return cls(
            input_size=input_size,
            in_channels=in_channels,
            dim=dim,
            n_layers=len(layers),
            n_heads=heads,
            n_kv_heads=state["model.layers.0.attn1.to_k.weight"].shape[0] * heads // dim,
            ffn_dim=state["model.layers.0.feed_forward.linear_1.weight"].shape[0],
            latent_embedding_size=state["model.caption_projection.linear_1.weight"].shape[1],
            num_register_tokens=state["model.reg_roles"].shape[1],
        )


class Cross(NamedTuple):
    """What one block's cross attention reads for some consecutive samples of a batch.

    key ``[B, heads, L, head_dim]`` and value of the same shape, mask ``[B, 1, 1, L]`` bool or None; without a key
    the value ``[B, heads, 1, head_dim]`` is the attention's result whatever the query.
    """

    key: Tensor | None
    value: Tensor
    mask: Tensor | None = None


class GridStep(NamedTuple):
    """One condition at one step: modulation ``[layers, B, 4 dim]`` of the blocks, ``[B, dim]`` of the output head."""

    modulations: Tensor
    head: Tensor
    cache: "ConditionCache"


class ConditionCache(NamedTuple):
    """What one prompt contributes to every step.

    tokens ``[B, L, dim]`` projected condition; pooled ``[B, modulation_dim]``; keys_values: per block the
    cross attention's key and value ``[B, heads, L, head_dim]``; key_mask ``[B, 1, 1, L]`` bool or None.
    uniform: None, or per block the value ``[U, heads, 1, head_dim]`` that the attention of the last U samples
    returns whatever the query; keys_values lack these samples then.
    """

    tokens: Tensor
    pooled: Tensor
    keys_values: list[tuple[Tensor, Tensor]]
    key_mask: Tensor | None
    uniform: list[Tensor] | None = None

    def rows(self, index: slice) -> "ConditionCache":
        """The cache of a part of the batch, of a cache without `uniform`."""
        keys_values = [(key[index], value[index]) for key, value in self.keys_values]
        mask = None if self.key_mask is None else self.key_mask[index]
        return ConditionCache(self.tokens[index], self.pooled[index], keys_values, mask)

    def folded(self, count: int) -> "ConditionCache":
        """The same for a batch whose last `count` samples have the unmasked null condition, all of equal tokens.

        Equal keys share the attention evenly among equal values: these samples need neither queries nor keys.
        """
        rest = len(self.tokens) - count
        keys_values = [(key[:rest], value[:rest]) for key, value in self.keys_values]
        uniform = [value[rest:, :, :1].contiguous() for _, value in self.keys_values]
        return self._replace(keys_values=keys_values, uniform=uniform)

    def crosses(self, layer: int) -> list[Cross]:
        """What a block reads for the samples of this cache, in their order."""
        key, value = self.keys_values[layer]
        asked = [Cross(key, value, self.key_mask)] if len(key) else []
        return asked if self.uniform is None else [*asked, Cross(None, self.uniform[layer])]


class _Mlp(nn.Module):
    """linear_1, activation, linear_2."""

    def __init__(self, dim_in: int, dim: int, activation: nn.Module):
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.activation = activation
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))


class _TimeCaptionEmbed(nn.Module):
    """Modulation vector: time through an MLP plus the mean projected condition."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        width = config.modulation_dim
        self.timestep_embedder = _Mlp(TIME_CHANNELS, width, nn.SiLU())
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


class _Attention(nn.Module):
    """Projections without bias; LayerNorm over all heads of queries and keys together."""

    kernel = "torch"

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

    def query_key_value(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Of the same tokens ``[B, N, dim]``, each ``[B, heads, N, head_dim]``."""
        if self.stacked is None:
            return self.query(x, rope), *self.key_value(x, rope)
        layers = (self.to_q, self.to_k, self.to_v)
        q, k, v = F.linear(x, self.stacked).split([layer.out_features for layer in layers], dim=-1)
        return self._turned_query(q, rope), *self._spread(self._turned_key(k, rope), v)

    def query(self, x: Tensor, rope: Rope) -> Tensor:
        return self._turned_query(self.to_q(x), rope)

    def key_value(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor]:
        return self._spread(self._turned_key(self.to_k(x), rope), self.to_v(x))

    def _turned_query(self, query: Tensor, rope: Rope) -> Tensor:
        return self._heads(rotate(self.norm_q(query), rope), self.n_heads)

    def _turned_key(self, key: Tensor, rope: Rope | None) -> Tensor:
        key = self.norm_k(key)
        return key if rope is None else rotate(key, rope.narrow(key.shape[-1]))

    def _spread(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values by heads, each repeated for the heads that share it."""
        key, value = self._heads(key, self.n_kv_heads), self._heads(value, self.n_kv_heads)
        group = self.n_heads // self.n_kv_heads
        if group > 1:  # repeated in place: 0, 0, .., 1, 1, ..
            key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        return key, value

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.linear_1 = nn.Linear(dim, inner, bias=False)
        self.linear_2 = nn.Linear(inner, dim, bias=False)
        self.linear_3 = nn.Linear(dim, inner, bias=False)
        self.register_buffer("stacked", None, persistent=False)

    def stack(self) -> None:
        """From now on one product makes gate and values; for weights that stay where they are."""
        self.stacked = stacked_weight([self.linear_1, self.linear_3])

    def forward(self, x: Tensor) -> Tensor:
        if self.stacked is None:
            gate, value = self.linear_1(x), self.linear_3(x)
        else:
            gate, value = F.linear(x, self.stacked).chunk(2, dim=-1)
        return self.linear_2(F.silu(gate) * value)


class _ModulatedNorm(nn.Module):
    """RMSNorm and the linear layer whose four parts modulate a block."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.linear = nn.Linear(config.modulation_dim, 4 * config.dim)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)


class _Block(nn.Module):
    """Self and gated cross attention from one query source, then a gated feed-forward (spec 3.3)."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.gate = nn.Parameter(torch.zeros(config.n_heads))
        self.attn1 = _Attention(config, output=False)
        self.attn2 = _Attention(config, output=True)
        self.feed_forward = _FeedForward(dim, config.ffn_dim)
        self.norm1 = _ModulatedNorm(config)
        self.norm1_context = RMSNorm(dim, eps=eps)
        self.norm2 = RMSNorm(dim, eps=eps)
        self.ffn_norm1 = RMSNorm(dim, eps=eps)
        self.ffn_norm2 = RMSNorm(dim, eps=eps)

    def cross_key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.attn2.key_value(self.norm1_context(tokens), None)

    def stack(self) -> None:
        """Join products of the same tokens; the numbers stay the same up to rounding."""
        self.attn1.stack()
        self.feed_forward.stack()

    def forward(self, x: Tensor, modulation: Tensor, rope: Rope, crosses: list[Cross]) -> Tensor:
        """x ``[B, N, dim]``; modulation ``[B, 4 dim]`` from `norm1.linear`; crosses in the order of the samples."""
        scale_attention, gate_attention, scale_ffn, gate_ffn = modulation.unsqueeze(1).chunk(4, dim=-1)
        source = self.norm1.norm(x) * (1 + scale_attention)
        within = attend(*self.attn1.query_key_value(source, rope), kernel=self.attn1.kernel)
        parts = source.split([len(cross.value) for cross in crosses])
        across = [self._across(part, cross, rope) for part, cross in zip(parts, crosses, strict=True)]
        across = across[0] if len(across) == 1 else torch.cat(across)
        joint = torch.addcmul(within, across, self.gate.tanh().to(across.dtype).view(1, -1, 1, 1))
        out = self.attn2.to_out[0](joint.transpose(1, 2).flatten(2))
        x = torch.addcmul(x, gate_attention.tanh(), self.norm2(out))
        out = self.feed_forward(self.ffn_norm1(x) * (1 + scale_ffn))
        return torch.addcmul(x, gate_ffn.tanh(), self.ffn_norm2(out))

    def _across(self, source: Tensor, cross: Cross, rope: Rope) -> Tensor:
        if cross.key is None:
            return cross.value.expand(-1, -1, source.shape[1], -1)
        return attend(self.attn2.query(source, rope), cross.key, cross.value, cross.mask, self.attn2.kernel)


def advance(block: _Block, x: Tensor, modulation: Tensor, rope: Rope, crosses: list[Cross]) -> Tensor:
    """One block; a function, so that one compilation of it serves all blocks."""
    return block(x, modulation, rope, crosses)


class _OutputHead(nn.Module):
    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.modulation_dim, config.dim)
        self.linear_2 = nn.Linear(config.dim, config.in_channels)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """scale ``[B, dim]`` from `linear_1`."""
        return self.linear_2(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale).unsqueeze(1))


class _PatchEmbed(nn.Module):
    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.proj = nn.Linear(config.in_channels, config.dim)


class _GridTransformer(nn.Module):
    """All parameters; `GridDiT` adds the outer name and the layouts."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        dim = config.dim
        self.caption_projection = _Mlp(config.latent_embedding_size, dim, nn.GELU(approximate="tanh"))
        self.patch_embedder = _PatchEmbed(config)
        self.cls_embed = nn.Linear(config.in_channels, dim)
        self.reg_embed = nn.Linear(config.in_channels, dim)
        self.cls_role = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=0.02))
        registers = torch.empty(1, config.num_register_tokens, dim)
        self.reg_roles = nn.Parameter(nn.init.trunc_normal_(registers, std=0.02))
        self.time_caption_embed = _TimeCaptionEmbed(config)
        self.layers = nn.ModuleList([_Block(config) for _ in range(config.n_layers)])
        self.norm_out = _OutputHead(config)

    def embed(self, patch: Tensor, cls: Tensor, reg: Tensor) -> Tensor:
        """State to the sequence that enters block 0, ``[B, 1 + R + H*W, dim]``."""
        patches = self.patch_embedder.proj(patch.flatten(2).transpose(1, 2))
        leading = (self.cls_embed(cls) + self.cls_role).unsqueeze(1)
        return torch.cat([leading, self.reg_embed(reg) + self.reg_roles, patches], dim=1)


class GridDiT(nn.Module):
    """Velocity of a token grid given time and condition.

    Parameters: `config` with the sizes. Source: spec gap3d.md 3; state-dict keys of 3.6 behind ``model.``.
    """

    config_class = GridDiTConfig
    advance = staticmethod(advance)

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        self.config = config
        self.model = _GridTransformer(config)

    @classmethod
    def from_args(cls, **args) -> "GridDiT":
        return cls(GridDiTConfig(**args))

    def condition_cache(self, cond: Tensor, cond_mask: Tensor | None = None) -> ConditionCache:
        """Everything that depends on the condition alone; valid for as many steps as the weights stand still.

        cond: ``[B, L, latent_embedding_size]``; the unconditional branch is all zeros HERE: the projection
        has biases, so projected zeros are not zero (spec 4.4). cond_mask: ``[B, L]``, 1 keep, 0 ignore.
        """
        model = self.model
        tokens = model.caption_projection(cond.to(model.cls_embed.weight.dtype))
        keys_values = [tuple(x.contiguous() for x in block.cross_key_value(tokens)) for block in model.layers]
        key_mask = None if cond_mask is None else cond_mask.bool()[:, None, None, :]
        pooled = model.time_caption_embed.pooled(tokens, cond_mask)
        return ConditionCache(tokens, pooled, keys_values, key_mask)

    def blocks(self) -> list[nn.Module]:
        """The transformer layers, in order."""
        return list(self.model.layers)

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        """The table of this network's heads for a grid, ``N = 1 + R + H*W``."""
        config = self.config
        leading = 1 + config.num_register_tokens
        return tiled_rope(height, width, config.head_dim, config.n_heads, leading, device)

    def forward(
        self,
        patch: Tensor,
        cls: Tensor,
        reg: Tensor,
        cond: Tensor | None,
        timestep: Tensor,
        cond_mask: Tensor | None = None,
        cond_cache: ConditionCache | None = None,
    ) -> GridState:
        """Velocities of the three parts.

        patch ``[B, C, H, W]``, cls ``[B, C]``, reg ``[B, R, C]``: the noisy state. cond ``[B, L, D]`` with
        optional cond_mask ``[B, L]``, or cond None and a `condition_cache`. timestep ``[B]`` float or
        integer, 0..1000, noise at 1000. Returns a `GridState` of the same shapes.
        """
        model = self.model
        height, width = patch.shape[-2:]
        cache = self.condition_cache(cond, cond_mask) if cond_cache is None else cond_cache
        modulation = F.silu(model.time_caption_embed.time(timestep) + cache.pooled)
        rope = self.rope(height, width, patch.device)
        x = model.embed(patch, cls, reg)
        for layer, block in enumerate(model.layers):
            x = block(x, block.norm1.linear(modulation), rope, cache.crosses(layer))
        x = model.norm_out(x, model.norm_out.linear_1(modulation))
        return unpack_grid(x, height, width, self.config.num_register_tokens)

    def prepare(self, conditions: list[Tensor], times: Tensor) -> list[list[GridStep]]:
        """What conditions ``[B, L, D]`` and times ``[S, 1]`` contribute: for every step one value per condition."""
        model, columns = self.model, []
        vectors = model.time_caption_embed.time(times.flatten())[:, None]
        for cond in conditions:
            cache = self.condition_cache(cond)
            if all_tokens_equal(cond):
                cache = cache.folded(len(cond))
            modulation = F.silu(vectors + cache.pooled)
            layers = torch.stack([block.norm1.linear(modulation) for block in model.layers], dim=1)
            head = model.norm_out.linear_1(modulation)
            columns.append([GridStep(layer, scale, cache) for layer, scale in zip(layers, head, strict=True)])
        return [list(row) for row in zip(*columns, strict=True)]

    def velocities(self, state: tuple[Tensor, ...], prepared: list[GridStep]) -> list[tuple[Tensor, ...]]:
        """`forward` for several conditions of one step, in the dtype of the state.

        One batch takes all conditions, except on a processor with a core for each.
        """
        if len(prepared) > 1 and side_by_side(state[0].device):
            branches = [partial(self.velocities, state, [step]) for step in prepared]
            return [velocity for (velocity,) in run_branches(branches, state[0].device)]
        model, dtype, count = self.model, state[0].dtype, len(prepared)
        height, width = state[0].shape[-2:]
        rope = self.rope(height, width, state[0].device)
        x = model.embed(*(part.to(model.cls_embed.weight.dtype) for part in state)).repeat(count, 1, 1)
        modulations = torch.cat([step.modulations for step in prepared], dim=1)
        for layer, block in enumerate(model.layers):
            crosses = [cross for step in prepared for cross in step.cache.crosses(layer)]
            x = self.advance(block, x, modulations[layer], rope, crosses)
        x = model.norm_out(x, torch.cat([step.head for step in prepared])).to(dtype)
        registers = self.config.num_register_tokens
        return [tuple(unpack_grid(part, height, width, registers)) for part in x.chunk(count)]

