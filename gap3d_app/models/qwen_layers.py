"""Qwen2.5-VL's text decoder and vision tower in plain torch, under the public state-dict names.

transformers' classes compute the same but take five seconds to import on a small CPU, half of what a cold
text-to-asset run may last; these twins need torch alone and batch images of equal size. A test holds both
equal. Source: spec gap3d.md 2.4; positions are those of GAP3D (2.3): 0..T-1 on all three M-RoPE axes, which
makes the text rotation the ordinary one-dimensional kind.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gap3d_app.nn.embeddings import TokenEmbedding
from gap3d_app.nn.norms import RMSNorm


@dataclass
class TextConfig:
    """Sizes of the decoder under Qwen2.5-VL's names."""

    vocab_size: int = 151668
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, ...] = (16, 24, 24)
    max_position_embeddings: int = 128000

    def __post_init__(self) -> None:
        self.mrope_section = tuple(self.mrope_section)
        if sum(self.mrope_section) * 2 != self.hidden_size // self.num_attention_heads:
            raise ValueError("mrope_section must sum to half of the head width")


@dataclass
class VisionConfig:
    """Sizes of the vision tower under Qwen2.5-VL's names; `window_size` in pixels."""

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 2048
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    in_channels: int = 3

    def __post_init__(self) -> None:
        self.fullatt_block_indexes = tuple(self.fullatt_block_indexes)


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _GatedMlp(nn.Module):
    def __init__(self, dim: int, inner: int, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=bias)
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _TextAttention(nn.Module):
    """Causal grouped-query attention; biases on query, key and value only."""

    def __init__(self, config: TextConfig):
        super().__init__()
        dim, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.group = dim // heads, heads // kv_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        value = heads(self.v_proj(x))
        query = _rotate_halves(heads(self.q_proj(x)), cos, sin).to(value.dtype)
        key = _rotate_halves(heads(self.k_proj(x)), cos, sin).to(value.dtype)
        if self.group > 1:
            key, value = key.repeat_interleave(self.group, 1), value.repeat_interleave(self.group, 1)
        # Padding stands on the right, where a causal mask hides it from every real token.
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class _DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.self_attn = _TextAttention(config)
        self.mlp = _GatedMlp(config.hidden_size, config.intermediate_size, bias=False)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


@lru_cache(maxsize=256)  # a batch is as long as its longest prompt
def _text_rope(length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype):
    with torch.inference_mode(False):
        power = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        angle = torch.arange(length, dtype=torch.float32)[:, None] / theta**power
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


class TextDecoder(nn.Module):
    """Token embedding, decoder layers and final norm.

    Set `gradient_checkpointing` to trade a second forward pass for activation memory in training.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        """Embedded sequence ``[B, T, hidden]`` to final normed states of the same shape."""
        config, x = self.config, inputs_embeds
        head_dim = config.hidden_size // config.num_attention_heads
        rope = _text_rope(x.shape[1], head_dim, config.rope_theta, x.device, x.dtype)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, *rope, use_reentrant=False)
            else:
                x = layer(x, *rope)
        return self.norm(x)


class _PatchEmbed(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, size, stride=size, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1))


class _VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, windows: int, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Rotation is done in float32 and cast back.
        query, key = (_rotate_halves(y.float(), cos, sin).to(y.dtype) for y in (qkv[0], qkv[1]))

        def fold(y: Tensor) -> Tensor:  # [B, heads, windows * n, d] -> [B, windows * heads, n, d]
            return y.unflatten(2, (windows, -1)).transpose(1, 2).flatten(1, 2)

        out = F.scaled_dot_product_attention(fold(query), fold(key), fold(qkv[2]), attn_mask=mask)
        out = out.unflatten(1, (windows, self.heads)).permute(0, 1, 3, 2, 4).flatten(1, 2).flatten(2)
        return self.proj(out)


class _VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, eps=1e-6)
        self.norm2 = RMSNorm(config.hidden_size, eps=1e-6)
        self.attn = _VisionAttention(config)
        self.mlp = _GatedMlp(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, windows: int, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, windows, mask)
        return x + self.mlp(self.norm2(x))


class _PatchMerger(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        inner = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm(config.hidden_size, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, config.out_hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        merged = self.mlp[0].in_features // x.shape[-1]
        return self.mlp(self.ln_q(x).unflatten(1, (-1, merged)).flatten(2))


@lru_cache(maxsize=16)
def _vision_plan(height: int, width: int, merge: int, window: int, head_dim: int, device: torch.device):
    """For a grid of patches: window order, its inverse over merged tokens, rope, window count, mask.

    Patches come in blocks of merge x merge. Windows are `window` blocks on a side; when all are equally full
    attention runs on them as a batch (windows > 1, no mask), otherwise a mask keeps them apart.
    """
    with torch.inference_mode(False):
        rows, columns = height // merge, width // merge
        row = torch.arange(rows)[:, None].expand(rows, columns)
        column = torch.arange(columns)[None, :].expand(rows, columns)
        across = -(-columns // window)
        label = ((row // window) * across + column // window).flatten()
        order = torch.argsort(label, stable=True)
        inside = torch.arange(merge)
        shape = (len(order), merge, merge)
        patch_row = (row.flatten()[order, None, None] * merge + inside[:, None]).expand(shape).flatten()
        patch_column = (column.flatten()[order, None, None] * merge + inside).expand(shape).flatten()
        half = head_dim // 2
        frequency = 1.0 / 10000.0 ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
        angle = torch.cat([patch_row[:, None] * frequency, patch_column[:, None] * frequency], dim=-1)
        angle = torch.cat([angle, angle], dim=-1)
        patches = (order[:, None] * merge**2 + torch.arange(merge**2)).flatten()
        counts = torch.bincount(label)
        windows, mask = len(counts), None
        if (counts != counts[0]).any():
            member = label[order].repeat_interleave(merge**2)
            windows, mask = 1, (member[:, None] == member[None, :]).to(device)
        tables = patches, torch.argsort(order), angle.cos(), angle.sin()
        return *(table.to(device) for table in tables), windows, mask


class VisionTower(nn.Module):
    """Windowed ViT with 2 x 2 merger: patches of still images to tokens of the decoder's width."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbed(config)
        self.blocks = nn.ModuleList([_VisionBlock(config) for _ in range(config.depth)])
        self.merger = _PatchMerger(config)

    def forward(self, pixel_values: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """Merged tokens ``[sum of h*w/merge^2, out_hidden_size]``, images one after the other.

        pixel_values: ``[sum of h*w, channels * temporal * patch^2]`` in Qwen's patch order (blocks of
        merge x merge); grids: (h, w) in patches of each image, multiples of the merge size.
        """
        if len(set(grids)) > 1:
            parts = pixel_values.split([h * w for h, w in grids])
            return torch.cat([self(part, [grid]) for part, grid in zip(parts, grids, strict=True)])
        config, (height, width) = self.config, grids[0]
        head_dim = config.hidden_size // config.num_heads
        window = config.window_size // config.spatial_merge_size // config.patch_size
        plan = (height, width, config.spatial_merge_size, window, head_dim, pixel_values.device)
        order, restore, cos, sin, windows, mask = _vision_plan(*plan)
        x = self.patch_embed(pixel_values).unflatten(0, (len(grids), height * width))[:, order]
        for index, block in enumerate(self.blocks):
            whole = index in config.fullatt_block_indexes
            x = block(x, cos, sin, 1 if whole else windows, None if whole else mask)
        return self.merger(x)[:, restore].flatten(0, 1)
