"""GridDiT: the flow-matching transformer from prompt condition to token grid.

Lumina Next-DiT over the plain sequence class, registers, patches; gated cross attention to the projected
condition; time and pooled condition modulate every block (spec gap3d.md 3). Module names give the released
state-dict keys behind ``model.dit.``, hence the inner ``model`` and the unlovely ``attn2.to_out.0``.

Notable: the condition is constant over a sampling run, so its projection and every block's cross-attention
keys and values can be computed once (`GridDiT.condition_cache`) and passed to each step.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.kernels import triton_fits
from gap3d_app.models.grid_config import GridDiTConfig
from gap3d_app.models.grid_layers import Cross, GridBlock, Mlp, OutputHead, PatchEmbed, TimeCaptionEmbed, advance
from gap3d_app.models.token_grid import GridState, unpack_grid
from gap3d_app.nn.attention import all_tokens_equal
from gap3d_app.nn.grid_rope import Rope, tiled_rope
from gap3d_app.nn.parallel import run_branches, side_by_side


class GridStep(NamedTuple):
    """One condition at one step: modulation ``[layers, B, 4 dim]`` of the blocks, ``[B, dim]`` of the output head."""

    modulations: Tensor
    head: Tensor
    cache: "ConditionCache"


class ConditionCache(NamedTuple):
    """What one prompt contributes to every step.

    tokens ``[B, L, dim]`` projected condition; pooled ``[B, modulation_dim]``; keys_values: per block the
    cross attention's key and value ``[B, heads, L, head_dim]``; key_mask ``[B, 1, 1, L]`` bool or None.

    Where all tokens of a sample are equal, as those of the null condition, equal keys share the attention evenly among
    equal values: L is 1 then, and the key None.
    """

    tokens: Tensor
    pooled: Tensor
    keys_values: list[tuple[Tensor | None, Tensor]]
    key_mask: Tensor | None

    def cross(self, layer: int) -> Cross:
        """What a block reads for the samples of this cache."""
        return Cross(*self.keys_values[layer], self.key_mask)


class _GridTransformer(nn.Module):
    """All parameters; `GridDiT` adds the outer name and the layouts."""

    def __init__(self, config: GridDiTConfig):
        super().__init__()
        dim = config.dim
        self.caption_projection = Mlp(config.latent_embedding_size, dim, nn.GELU(approximate="tanh"))
        self.patch_embedder = PatchEmbed(config)
        self.cls_embed = nn.Linear(config.in_channels, dim)
        self.reg_embed = nn.Linear(config.in_channels, dim)
        self.cls_role = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=0.02))
        registers = torch.empty(1, config.num_register_tokens, dim)
        self.reg_roles = nn.Parameter(nn.init.trunc_normal_(registers, std=0.02))
        self.time_caption_embed = TimeCaptionEmbed(config)
        self.layers = nn.ModuleList([GridBlock(config) for _ in range(config.n_layers)])
        self.norm_out = OutputHead(config)

    def embed(self, patch: Tensor, cls: Tensor, reg: Tensor) -> Tensor:
        """State to the sequence that enters block 0, ``[B, 1 + R + H*W, dim]``."""
        rows = patch.flatten(2).transpose(1, 2)
        if rows.is_cuda:
            rows = rows.contiguous()  # cuBLAS takes columns of an odd number of patches at a seventh of the speed
        patches = self.patch_embedder.proj(rows)
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

    def null_cache(self, cond: Tensor) -> ConditionCache:
        """`condition_cache` of a condition of equal tokens, from the first of them."""
        model = self.model
        tokens = model.caption_projection(cond[:, :1].to(model.cls_embed.weight.dtype))
        values = [(None, block.cross_value(tokens)) for block in model.layers]
        return ConditionCache(tokens, model.time_caption_embed.pooled(tokens, None), values, None)

    def blocks(self) -> list[nn.Module]:
        """The transformer layers, in order."""
        return list(self.model.layers)

    def stack(self) -> None:
        """Join products of the same tokens, and norms with what follows; for weights that stay where they are."""
        for block in self.model.layers:
            block.stack()
        self.model.norm_out.fused = triton_fits()

    def unstack(self) -> None:
        """Undo `stack`, so that the weights may move."""
        for block in self.model.layers:
            block.unstack()
        self.model.norm_out.fused = False

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
            x = block(x, block.norm1.linear(modulation), rope, [cache.cross(layer)])
        x = model.norm_out(x, model.norm_out.linear_1(modulation))
        return unpack_grid(x, height, width, self.config.num_register_tokens)

    def prepare(
        self, conditions: list[Tensor], times: Tensor, uniform: list[bool] | None = None
    ) -> list[list[GridStep]]:
        """What conditions ``[B, L, D]`` and times ``[S, 1]`` contribute: for every step one value per condition.

        uniform: what `all_tokens_equal` says of every condition, for a caller that has asked already.
        """
        model = self.model
        uniform = [all_tokens_equal(cond) for cond in conditions] if uniform is None else uniform
        makers = [self.null_cache if same else self.condition_cache for same in uniform]
        caches = [make(cond) for make, cond in zip(makers, conditions, strict=True)]
        pooled = torch.cat([cache.pooled for cache in caches])
        modulation = F.silu(model.time_caption_embed.time(times.flatten())[:, None] + pooled)
        counts = [len(cache.pooled) for cache in caches]
        layers = torch.stack([block.norm1.linear(modulation) for block in model.layers], dim=1).split(counts, dim=2)
        heads = model.norm_out.linear_1(modulation).split(counts, dim=1)
        return [
            [GridStep(layer[step], head[step], cache) for layer, head, cache in zip(layers, heads, caches, strict=True)]
            for step in range(len(modulation))
        ]

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
        x = model.embed(*(part.to(model.cls_embed.weight.dtype) for part in state))
        x = torch.cat([x] * count)  # at twice the speed of `repeat`
        modulations = torch.cat([step.modulations for step in prepared], dim=1)
        x = self._linked(x, modulations, rope, [step.cache for step in prepared])
        x = model.norm_out(x, torch.cat([step.head for step in prepared])).to(dtype)
        registers = self.config.num_register_tokens
        return [tuple(unpack_grid(part, height, width, registers)) for part in x.chunk(count)]

    def _linked(self, x: Tensor, modulations: Tensor, rope: Rope, caches: list[ConditionCache]) -> Tensor:
        """All blocks, each under its modulation ``[B, 4 dim]``; the caches are of consecutive samples."""
        blocks = self.model.layers
        source = blocks[0].enter(x, modulations[0])
        for layer, block in enumerate(blocks):
            after = layer + 1
            following = (blocks[after].norm1.norm, modulations[after]) if after < len(blocks) else None
            crosses = [cache.cross(layer) for cache in caches]
            x, source = self.advance(block, x, source, modulations[layer], rope, crosses, following)
        return x
