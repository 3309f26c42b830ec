"""PromptEncoder: a prompt, text or image and text, to the condition of the GridDiT.

The Qwen2.5-VL decoder reads the prompt followed by learned queries; its final states at the queries are the
condition (spec gap3d.md 2). State-dict keys are those of the release:
``model.embed_tokens``, ``model.layers``, ``model.norm``, ``model.latent_queries`` and ``visual``.
"""

from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gap3d_app.models.pictures import qwen_patches, square_picture
from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.qwen_layers import TextConfig, TextDecoder, VisionConfig, VisionTower


@dataclass
class PromptEncoderConfig:
    """Sizes and token ids. `image_size` is the square side in pixels of a prompt's picture."""

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    n_query: int = 64
    image_size: int = 448
    model_max_length: int = 512
    pad_token_id: int = 151643
    image_token_id: int = 151655
    img_start_token_id: int = 151665
    query_token_id: int = 151667

    def __post_init__(self) -> None:
        if isinstance(self.text_config, dict):
            self.text_config = TextConfig(**self.text_config)
        if isinstance(self.vision_config, dict):
            self.vision_config = VisionConfig(**self.vision_config)
        vision = self.vision_config
        if self.image_size % (vision.patch_size * vision.spatial_merge_size):
            raise ValueError("image_size must be a multiple of patch_size * spatial_merge_size")

    @property
    def image_tokens(self) -> int:
        """Decoder tokens that one picture takes."""
        vision = self.vision_config
        return (self.image_size // (vision.patch_size * vision.spatial_merge_size)) ** 2

    def to_args(self) -> dict:
        """Constructor arguments as plain JSON values."""
        return asdict(self)


def _transformers_modules(config: PromptEncoderConfig) -> tuple[nn.Module, nn.Module]:
    """The library's own decoder and vision tower for the same sizes."""
    from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl, modeling_qwen2_5_vl

    text = asdict(config.text_config)
    rope = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
    rope["mrope_section"] = list(text.pop("mrope_section"))
    text_config = configuration_qwen2_5_vl.Qwen2_5_VLTextConfig(
        **text, rope_parameters=rope, pad_token_id=None, bos_token_id=None, eos_token_id=None
    )
    vision_config = configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(**asdict(config.vision_config))
    return (
        modeling_qwen2_5_vl.Qwen2_5_VLTextModel._from_config(text_config, attn_implementation="sdpa"),
        modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel._from_config(
            vision_config, attn_implementation="sdpa"
        ),
    )


class PromptEncoder(nn.Module):
    """Frozen language model with trained queries.

    Parameters: `config`; `tokenizer` for calls with text (may be set later); `layers` 'torch' (the light
    twins of qwen_layers.py) or 'transformers' (the library's classes, same keys, same numbers).
    """

    config_class = PromptEncoderConfig

    def __init__(
        self, config: PromptEncoderConfig, tokenizer: PromptTokenizer | None = None, layers: str = "torch"
    ):
        super().__init__()
        self.config, self.tokenizer, self.layers = config, tokenizer, layers
        if layers == "torch":
            self.model, self.visual = TextDecoder(config.text_config), VisionTower(config.vision_config)
            self.apply(_initialize)
        elif layers == "transformers":
            self.model, self.visual = _transformers_modules(config)
        else:
            raise ValueError(f"layers is 'torch' or 'transformers', not {layers!r}")
        queries = torch.randn(1, config.n_query, config.text_config.hidden_size)
        self.model.latent_queries = nn.Parameter(queries)

    @classmethod
    def from_args(cls, **args) -> "PromptEncoder":
        return cls(PromptEncoderConfig(**args))

    @property
    def latent_queries(self) -> nn.Parameter:
        """The trained queries ``[1, n_query, hidden]``."""
        return self.model.latent_queries

    @property
    def max_caption_tokens(self) -> int:
        """Longest text prompt in tokens (see `PromptTokenizer.max_caption_tokens` for image prompts)."""
        return self.tokenizer.max_caption_tokens()

    def count_tokens(self, text: str) -> int:
        """Tokens that a caption takes inside the prompt."""
        return self.tokenizer.count_tokens(text)

    def freeze_language_model(self) -> "PromptEncoder":
        """Train the queries only (spec 4.5)."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name == "model.latent_queries")
        return self

    def tokenize(
        self, texts: list[str], images: list[Image.Image | None] | None = None, truncate: bool = False
    ) -> dict[str, Tensor]:
        """Prompts to a CPU batch for `encode`: input_ids, attention_mask, query_start and, with any image,
        pixel_values ``[n_patches, 1176]`` of the rows that have one, in order.

        Raises InputError when a caption is longer than fits.
        """
        images = images or [None] * len(texts)
        prompts = [
            self.tokenizer.prompt_ids(text, with_image=image is not None, truncate=truncate)
            for text, image in zip(texts, images, strict=True)
        ]
        batch = self.tokenizer.batch(prompts)
        pictures = [square_picture(image, self.config.image_size) for image in images if image is not None]
        if pictures:
            batch["pixel_values"] = self.patches(torch.stack(pictures))
        return batch

    def patches(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, image_size, image_size]`` in 0..1 (any device) to pixel_values."""
        vision = self.config.vision_config
        return qwen_patches(images, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)

    def image_features(self, pixel_values: Tensor, image_grid_thw: Tensor | None = None) -> Tensor:
        """Vision tokens ``[n, hidden]``, picture after picture; without a grid all are of image_size."""
        if image_grid_thw is None:
            side = self.config.image_size // self.config.vision_config.patch_size
            grids = [(side, side)] * (pixel_values.shape[0] // side**2)
        else:
            grids = [(int(h), int(w)) for _, h, w in image_grid_thw.tolist()]
        if self.layers == "torch":
            return self.visual(pixel_values, grids)
        thw = torch.tensor([(1, h, w) for h, w in grids], device=pixel_values.device)
        return self.visual(pixel_values, grid_thw=thw).pooler_output

    def embed(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None
    ) -> Tensor:
        """Embedded sequence ``[B, T, hidden]`` with queries and vision tokens in their places."""
        embeds = self.model.embed_tokens(input_ids)
        is_query = input_ids == self.config.query_token_id
        slots = self._slots(_first(is_query), embeds).clamp(max=input_ids.shape[1] - 1)
        queries = self.latent_queries.to(embeds.dtype).expand(len(slots), -1, -1)
        embeds = torch.where(is_query.unsqueeze(-1), embeds.scatter(1, slots, queries), embeds)
        if pixel_values is None:
            return embeds
        features = self.image_features(pixel_values, image_grid_thw).to(embeds.dtype)
        is_image = (input_ids == self.config.image_token_id).view(-1, 1)
        # a stable sort finds the image tokens without waiting for the device to count them
        places = is_image.flatten().logical_not().byte().argsort(stable=True)[: len(features)]
        flat = embeds.flatten(0, 1)
        return torch.where(is_image, flat.index_copy(0, places, features[: len(places)]), flat).view_as(embeds)

    def _slots(self, query_start: Tensor, states: Tensor) -> Tensor:
        """Where the queries stand in `states` ``[B, T, C]``, side by side: positions ``[B, n_query, C]``."""
        index = query_start[:, None] + torch.arange(self.config.n_query, device=states.device)
        return index.unsqueeze(-1).expand(-1, -1, states.shape[-1])

    def hidden_states(self, inputs_embeds: Tensor) -> Tensor:
        """Final normed states ``[B, T, hidden]``; positions 0..T-1 on all axes, causal (spec 2.3)."""
        if self.layers == "torch":
            return self.model(inputs_embeds)
        batch, length = inputs_embeds.shape[:2]
        positions = torch.arange(length, device=inputs_embeds.device).expand(3, batch, length)
        output = self.model(inputs_embeds=inputs_embeds, position_ids=positions, use_cache=False)
        return output.last_hidden_state

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        query_start: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """Condition ``[B, n_query, hidden]`` of a tokenised batch; differentiable.

        input_ids ``[B, T]`` padded on the right, each row with n_query query slots. attention_mask is
        accepted for completeness: padding on the right of a causal sequence cannot change the result.
        query_start ``[B]`` is found from the ids when not given.
        """
        states = self.hidden_states(self.embed(input_ids, pixel_values, image_grid_thw))
        return self.latents(states, input_ids, query_start)

    def latents(self, states: Tensor, input_ids: Tensor, query_start: Tensor | None = None) -> Tensor:
        """The queries' states ``[B, n_query, hidden]`` among final states ``[B, T, hidden]``; see `encode`."""
        if query_start is None:
            query_start = _first(input_ids == self.config.query_token_id)
        return states.gather(1, self._slots(query_start, states))

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits ``[..., vocab]`` of final states through the tied embedding, for pre-training."""
        return F.linear(states, self.model.embed_tokens.weight)

    def forward(
        self, texts: list[str] | None = None, images: list[Image.Image | None] | None = None, **batch: Tensor
    ) -> Tensor:
        """Condition ``[B, n_query, hidden]``.

        Of text prompts, or image-and-text prompts where an image is given, without gradients; or of a
        tokenised batch (`encode`'s arguments), with them. Raises InputError when a caption is too long.
        """
        if texts is None:
            return self.encode(**batch)
        device = self.latent_queries.device
        with torch.inference_mode():
            batch = {name: value.to(device) for name, value in self.tokenize(texts, images).items()}
            return self.encode(**batch)


def _first(flags: Tensor) -> Tensor:
    """Position ``[B]`` of the first True of each row ``[B, T]``; 0 where there is none."""
    return flags.int().argmax(dim=1)


def _initialize(module: nn.Module) -> None:
    """Qwen's initial values: normal with deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
