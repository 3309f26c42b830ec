"""TextEncoder: CLIP's text tower, the condition of TRELLIS's text models (trellis.md 1.3).

State-dict keys are those of the published openai/clip-vit-large-patch14 (`text_model.…`); the layers are plain
torch (importing transformers takes seconds) and a test holds them equal to transformers' CLIPTextModel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.errors import WeightsError


@dataclass
class TextEncoderConfig:
    """Sizes under transformers' names; the default is the text tower of CLIP ViT-L/14."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    def __post_init__(self) -> None:
        if self.hidden_act != "quick_gelu":
            raise ValueError("TextEncoder supports hidden_act quick_gelu only")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} channels cannot be split into {self.num_attention_heads} heads")

    def to_args(self) -> dict[str, Any]:
        """Constructor arguments as plain JSON values."""
        return asdict(self)


class _Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in projections)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class _Layer(nn.Module):
    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = _Attention(dim, config.num_attention_heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.mlp = _Mlp(dim, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)


class _Encoder(nn.Module):
    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _TextModel(nn.Module):
    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.embeddings, self.encoder = _Embeddings(config), _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class TextEncoder(nn.Module):
    """Prompts to CLIP's token states. Parameters: `config` with the sizes."""

    config_class = TextEncoderConfig

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config, self.tokenizer = config, None
        self.text_model = _TextModel(config)

    @classmethod
    def from_args(cls, **args: Any) -> TextEncoder:
        return cls(TextEncoderConfig(**args))

    def read_tokenizer(self, path: Path) -> TextEncoder:
        """Take the tokenizer from a tokenizer.json.

        Raises:
            WeightsError: the file is missing or is no tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception for a file it cannot use
            name = f"{path.name!r} of {path.parent.name!r}"
            raise WeightsError(f"The tokenizer {name} cannot be used: {error}.") from None
        length = self.config.max_position_embeddings
        end = self.tokenizer.token_to_id("<|endoftext|>")
        if end is None:
            raise WeightsError(f"The tokenizer {path.name!r} of {path.parent.name!r} has no <|endoftext|>.")
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=end, pad_token="<|endoftext|>")
        return self

    def tokenize(self, texts: list[str]) -> Tensor:
        """Ids ``[B, 77]`` int64: start, text cut to fit, end, and the end token again as padding."""
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(texts)])

    def forward(self, texts: list[str] | None = None, input_ids: Tensor | None = None) -> Tensor:
        """States ``[B, 77, C]`` after the final norm, of texts or of ids; no padding mask (trellis.md 1.3).

        The unconditional prompt of guidance is the empty text.
        """
        embeddings = self.text_model.embeddings
        if input_ids is None:
            input_ids = self.tokenize(texts).to(embeddings.token_embedding.weight.device)
        x = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[: input_ids.shape[1]]
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        return self.text_model.final_layer_norm(x)
