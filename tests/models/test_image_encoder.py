"""The image encoder against transformers' class, torch.hub's names and its own contract."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gap3d_app.models.checkpoint import build_model, load_model, read_config, save_model
from gap3d_app.models.image_encoder import ImageEncoder, ImageEncoderConfig, from_torch_hub
from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD, normalize, square_picture

CONFIGS = Path(__file__).resolve().parents[2] / "gap3d_app" / "models" / "configs"
TINY = ImageEncoderConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=70, layerscale_value=0.5
)


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    model = ImageEncoder(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def test_equals_transformers(encoder: ImageEncoder) -> None:
    library = encoder.as_transformers()
    for size in (70, 98):
        image = torch.randn(2, 3, size, size)
        out = library(image, output_hidden_states=True)
        torch.testing.assert_close(encoder.prenorm(image), out.hidden_states[-1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoder(image), out.last_hidden_state, rtol=1e-4, atol=1e-4)
    masked = torch.rand(2, 25) < 0.4
    image = torch.randn(2, 3, 70, 70)
    expected = library(image, bool_masked_pos=masked).last_hidden_state
    torch.testing.assert_close(encoder(image, masked.view(2, 5, 5)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_are_layer_normalised(encoder: ImageEncoder) -> None:
    image = torch.rand(2, 3, 70, 70)
    tokens = encoder.encode(image)
    assert tokens.shape == (2, encoder.num_tokens, 32) == (2, 1 + 4 + 25, 32)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 30), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(2, 30), atol=1e-3, rtol=0)
    prepared = normalize(image, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(tokens, encoder.encode(prepared, normalized=True))


def test_full_size_has_the_published_keys() -> None:
    with torch.device("meta"):
        model = build_model(*read_config(CONFIGS / "dinov2_reg_large"))
    assert sum(p.numel() for p in model.parameters()) == 304_372_736
    assert model.num_tokens == 1374
    assert len(model.state_dict()) == 440
    assert "encoder.layer.23.attention.attention.query.bias" in model.state_dict()


def test_hub_names_map_one_to_one(encoder: ImageEncoder) -> None:
    state = encoder.state_dict()
    hub = {
        "cls_token": state["embeddings.cls_token"],
        "mask_token": state["embeddings.mask_token"],
        "register_tokens": state["embeddings.register_tokens"],
        "pos_embed": state["embeddings.position_embeddings"],
    }
    for last in ("weight", "bias"):
        hub[f"patch_embed.proj.{last}"] = state[f"embeddings.patch_embeddings.projection.{last}"]
        hub[f"norm.{last}"] = state[f"layernorm.{last}"]
        for i in range(2):
            new, old = f"encoder.layer.{i}.", f"blocks.{i}."
            parts = [state[f"{new}attention.attention.{name}.{last}"] for name in ("query", "key", "value")]
            hub[f"{old}attn.qkv.{last}"] = torch.cat(parts)
            hub[f"{old}attn.proj.{last}"] = state[f"{new}attention.output.dense.{last}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                hub[f"{old}{name}.{last}"] = state[f"{new}{name}.{last}"]
    for i in range(2):
        for number in (1, 2):
            hub[f"blocks.{i}.ls{number}.gamma"] = state[f"encoder.layer.{i}.layer_scale{number}.lambda1"]
    mapped = from_torch_hub(hub)
    assert mapped.keys() == state.keys()
    assert all(torch.equal(mapped[key], state[key]) for key in state)


def test_save_and_load(encoder: ImageEncoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "image_encoder")
    again = load_model(tmp_path / "image_encoder")
    image = torch.rand(1, 3, 70, 70)
    with torch.no_grad():
        assert torch.equal(again.encode(image), encoder.encode(image))


def test_gradients_reach_every_parameter_but_the_last_norm(encoder: ImageEncoder) -> None:
    masked = torch.rand(1, 25) < 0.5
    encoder.prenorm(torch.rand(1, 3, 70, 70), masked).square().mean().backward()
    without = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert without == {"layernorm.weight", "layernorm.bias"}


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (40, 40), (30, 31)])
def test_square_picture_keeps_the_centre(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (0, 0, 255))
    x, y = size[0] // 2, size[1] // 2
    image.paste((255, 0, 0), (x - 5, y - 5, x + 5, y + 5))
    tensor = square_picture(image, 40)
    assert tensor.shape == (3, 40, 40) and tensor.dtype == torch.float32
    assert tensor[0, 20, 20] > 0.9 and tensor[2, 20, 20] < 0.1
    assert tensor.min() >= 0 and tensor.max() <= 1
    red = tensor[0].sum(), (tensor[0] * torch.arange(40)).sum() / tensor[0].sum()
    assert abs(red[1].item() - 19.5) < 1.0
