"""ImageEncoder: DINOv2 with registers, a picture to its token grid.

The residual stream before the tower's last norm, then a layer norm without weights, is what GAP3D learns to
generate and what the flow models are conditioned on (spec gap3d.md 0.2, 4.2). State-dict names are those of
the published facebook/dinov2-with-registers checkpoints; the layers are plain torch (importing transformers
takes seconds) and a test holds them equal to transformers' Dinov2WithRegistersModel.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD, normalize, square_picture
from gap3d_app.models.token_grid import normalize_tokens


@dataclass
class ImageEncoderConfig:
    """Sizes under transformers' names; the default is ViT-L/14 at 518 pixels (1374 tokens of 1024)."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int = 518
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 4
    layerscale_value: float = 1.0

    def __post_init__(self) -> None:
        if self.hidden_act != "gelu" or self.use_swiglu_ffn or not self.qkv_bias:
            raise ValueError("ImageEncoder supports hidden_act gelu, qkv_bias true and no SwiGLU")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} channels cannot be split into {self.num_attention_heads} heads")

    @property
    def side(self) -> int:
        """Patches per side at the native image size."""
        return self.image_size // self.patch_size

    def to_args(self) -> dict:
        """Constructor arguments as plain JSON values."""
        return asdict(self)


class _PatchEmbeddings(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        patch = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)


class _Embeddings(nn.Module):
    """Class, register and position-coded patch tokens; registers have no position."""

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        dim = config.hidden_size
        self.side = config.side
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        self.patch_embeddings = _PatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + config.side**2, dim))

    def forward(self, images: Tensor, masked: Tensor | None) -> Tensor:
        patches = self.patch_embeddings.projection(images)
        height, width = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        if masked is not None:
            patches = torch.where(masked.flatten(1).unsqueeze(-1), self.mask_token.to(patches.dtype), patches)
        patches = patches + self._positions(height, width)
        batch = patches.shape[0]
        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(batch, -1, -1)
        return torch.cat([cls, self.register_tokens.expand(batch, -1, -1), patches], dim=1)

    def _positions(self, height: int, width: int) -> Tensor:
        table = self.position_embeddings[:, 1:]
        if (height, width) == (self.side, self.side):
            return table
        grid = table.float().unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False, antialias=True)
        return grid.flatten(2).transpose(1, 2).to(table.dtype)


class _SelfAttention(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))


class _AttentionOutput(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dense = nn.Linear(dim, dim)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = _SelfAttention(dim)
        self.output = _AttentionOutput(dim)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.attention.query, self.attention.key, self.attention.value)
        heads = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        return self.output.dense(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class _LayerScale(nn.Module):
    def __init__(self, dim: int, value: float):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class _Mlp(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        dim = config.hidden_size
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = _Attention(dim, config.num_attention_heads)
        self.layer_scale1 = _LayerScale(dim, config.layerscale_value)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = _Mlp(dim, dim * config.mlp_ratio)
        self.layer_scale2 = _LayerScale(dim, config.layerscale_value)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class _Encoder(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.layer = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])


class ImageEncoder(nn.Module):
    """Pictures to token grids. Parameters: `config` with the sizes."""

    config_class = ImageEncoderConfig

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(_initialize)
        for table in (self.embeddings.cls_token, self.embeddings.position_embeddings):
            nn.init.trunc_normal_(table, std=0.02)

    @classmethod
    def from_args(cls, **args) -> "ImageEncoder":
        return cls(ImageEncoderConfig(**args))

    @property
    def grid_size(self) -> int:
        """Patches per side of a picture of native size."""
        return self.config.side

    def blocks(self) -> list[nn.Module]:
        """The transformer layers, in order."""
        return list(self.encoder.layer)

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture of native size: class, registers, patches."""
        return 1 + self.config.num_register_tokens + self.config.side**2

    def prenorm(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """Residual stream ``[B, 1 + R + h*w, C]`` after the last layer.

        images: normalised ``[B, 3, H, W]``, sides multiples of the patch; masked: bool ``[B, h, w]`` or
        ``[B, h*w]``, patches replaced by the mask token (masked-image training).
        """
        x = self.embeddings(images, masked)
        for layer in self.encoder.layer:
            x = layer(x)
        return x

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """`prenorm` after the tower's own final norm, as transformers' last_hidden_state."""
        return self.layernorm(self.prenorm(images, masked))

    def encode(self, images: Tensor, normalized: bool = False) -> Tensor:
        """Token grid ``[B, 1 + R + h*w, C]``: class, registers, patches row by row, each layer-normalised.

        images: ``[B, 3, H, W]`` in 0..1, or already ImageNet-normalised. Differentiable.
        """
        if not normalized:
            images = normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        return normalize_tokens(self.prenorm(images))

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture to ``[3, image_size, image_size]`` in 0..1: shorter side resized, centre cropped."""
        return square_picture(image, self.config.image_size)

    def as_transformers(self) -> nn.Module:
        """The same weights in transformers' Dinov2WithRegistersModel (imports transformers)."""
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**self.config.to_args()))
        model.load_state_dict(transformers5_names(self.state_dict()))
        return model.eval()


def transformers5_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names to those that transformers 5 gives its modules in memory."""
    names = {"attention.query": "q_proj", "attention.key": "k_proj", "attention.value": "v_proj"}
    names["output.dense"] = "o_proj"
    result = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(f".attention.{old}.", f".attention.{new}.")
        result[key] = value
    return result


def from_torch_hub(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch.hub's DINOv2-with-registers names to the published ones; the fused qkv splits in three.

    Names of another network stay as they are, for the loader to refuse.
    """
    outer = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inner = {"attn.proj": "attention.output.dense", "ls1": "layer_scale1", "ls2": "layer_scale2"}
    result = {}
    for key, value in state.items():
        name, _, last = key.rpartition(".") if key.endswith((".weight", ".bias", ".gamma")) else (key, "", "")
        if not name.startswith("blocks."):
            result[".".join(filter(None, (outer.get(name, name), last)))] = value
            continue
        _, index, part = (*name.split(".", 2), "")[:3]
        prefix = f"encoder.layer.{index}."
        if part == "attn.qkv":
            for third, target in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                result[f"{prefix}attention.attention.{target}.{last}"] = third
        else:
            result[f"{prefix}{inner.get(part, part)}.{'lambda1' if last == 'gamma' else last}"] = value
    return result


def _initialize(module: nn.Module) -> None:
    """Truncated normal with deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
