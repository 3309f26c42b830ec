"""The prompt encoder: layers against transformers' classes, prompts, placement of queries, limits."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from gap3d_app.errors import InputError, WeightsError
from gap3d_app.models.checkpoint import build_model, load_model, read_config, save_model
from gap3d_app.models.gap3d_checkpoint import extend_vocabulary, split_checkpoint
from gap3d_app.models.pictures import qwen_patches
from gap3d_app.models.prompt_tokenizer import SPECIAL_TOKENS, PromptTokenizer, prompt_pieces
from gap3d_app.models.vlm import PromptEncoder, PromptEncoderConfig
from train.data.tokenizer import token_settings, train_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "gap3d_app" / "models" / "configs"
CAPTIONS = [
    f"a {size} {color} {thing}, make it {color}"
    for size in ("small", "tall", "tiny")
    for color in ("red", "blue", "dark green")
    for thing in ("toy airplane", "chair", "wooden table")
]
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return train_tokenizer(CAPTIONS, 512).to_str()


@pytest.fixture(scope="module")
def config(tokenizer_json: str) -> PromptEncoderConfig:
    from tokenizers import Tokenizer

    settings = token_settings(Tokenizer.from_str(tokenizer_json))
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "mrope_section": (2, 3, 3), "vocab_size": settings.pop("vocab_size")}
    vision = {"depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": (1,)}
    return PromptEncoderConfig(text, vision, n_query=3, image_size=32, model_max_length=160, **settings)


@pytest.fixture
def encoder(config: PromptEncoderConfig, tokenizer_json: str) -> PromptEncoder:
    torch.manual_seed(0)
    model = PromptEncoder(config, PromptTokenizer(tokenizer_json, config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (10, 6), (2, 14)])
def test_layers_equal_transformers(encoder: PromptEncoder, grid: tuple[int, int]) -> None:
    library = PromptEncoder(encoder.config, layers="transformers").eval()
    library.load_state_dict(encoder.state_dict())
    height, width = grid
    pixels = torch.randn(2 * height * width, 3 * 2 * 16)
    thw = torch.tensor([[1, height, width]] * 2)
    ours, theirs = encoder.image_features(pixels, thw), library.image_features(pixels, thw)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    embeds = torch.randn(2, 17, 32)
    torch.testing.assert_close(
        encoder.hidden_states(embeds), library.hidden_states(embeds), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="layers"):
        PromptEncoder(encoder.config, layers="jax")


@torch.no_grad()
def test_pictures_of_different_size_in_one_call(encoder: PromptEncoder) -> None:
    grids = [(8, 8), (4, 10), (8, 8)]
    parts = [torch.randn(h * w, 96) for h, w in grids]
    thw = torch.tensor([(1, *grid) for grid in grids])
    together = encoder.image_features(torch.cat(parts), thw)
    apart = [encoder.image_features(part, thw[i : i + 1]) for i, part in enumerate(parts)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)


def test_patches_equal_the_public_image_processor() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (2, 56, 84, 3), generator=generator, dtype=torch.uint8)
    pictures = [Image.fromarray(image.numpy()) for image in raw]
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 10**6})
    expected = processor(images=pictures, return_tensors="pt")
    ours = qwen_patches(raw.permute(0, 3, 1, 2).float() / 255)
    assert expected["image_grid_thw"].tolist() == [[1, 4, 6]] * 2
    torch.testing.assert_close(ours, expected["pixel_values"], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 28"):
        qwen_patches(torch.zeros(1, 3, 30, 56))


def test_prompt_text() -> None:
    text = "Please generate image based on the following caption: "
    assert "".join(prompt_pieces(" a  chair ")) == HEAD + text + " a  chair " + TAIL
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    edit = f"{text}Create a precise replica of: {image}\nbut: make it red"
    assert "".join(prompt_pieces("make it red \n", 4)) == HEAD + edit + TAIL


def test_ids_equal_those_of_the_public_tokenizer_class(encoder: PromptEncoder, tokenizer_json: str) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    public = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_json))
    for caption in ("a small red chair", "  two  spaces, a café sign\nand — 49°", "", "it's 3D\r\n\n x"):
        expected = public("".join(prompt_pieces(caption)), add_special_tokens=False)["input_ids"]
        assert encoder.tokenizer.prompt_ids(caption) == expected


def test_typed_special_tokens_are_plain_text(encoder: PromptEncoder) -> None:
    plain = encoder.tokenizer.prompt_ids("a chair")
    special = set(encoder.tokenizer.special_ids.values())
    assert len(special) == len(SPECIAL_TOKENS)
    for name in SPECIAL_TOKENS:
        ids = encoder.tokenizer.prompt_ids(f"a {name} chair")
        assert [i for i in ids if i in special] == [i for i in plain if i in special]
        assert name in encoder.tokenizer.decode(ids)
        with torch.no_grad():
            assert encoder([f"a {name} chair"]).shape == (1, 3, 32)


def test_the_limit_is_named_and_exact(encoder: PromptEncoder) -> None:
    limit = encoder.max_caption_tokens
    assert limit == 160 - 3 - 1 - len(encoder.tokenizer.prompt_ids(""))
    word = " chair"
    fitting = word * (limit // encoder.count_tokens(word))
    assert encoder.count_tokens(fitting) <= limit
    encoder.tokenize([fitting])
    with pytest.raises(InputError, match=f"tokens of at most {limit}.; shorten it to about"):
        encoder.tokenize([word * (limit + 1)])
    assert encoder.tokenizer.max_caption_tokens(with_image=True) < limit - encoder.config.image_tokens
    cut = encoder.tokenize([word * 500], truncate=True)
    assert cut["input_ids"].shape == (1, 160)
    assert (cut["input_ids"] == encoder.config.query_token_id).sum() == 3


@torch.no_grad()
def test_neighbours_and_padding_do_not_matter(encoder: PromptEncoder) -> None:
    texts = ["a chair", "a small dark green wooden table, tall", "make it red"]
    picture = Image.new("RGB", (50, 40), "red")
    images = [None, None, picture]
    together = encoder(texts, images)
    assert together.shape == (3, 3, 32)
    for i, (text, image) in enumerate(zip(texts, images, strict=True)):
        torch.testing.assert_close(encoder([text], [image])[0], together[i], rtol=1e-4, atol=1e-5)
    other = encoder(texts, [None, None, Image.new("RGB", (50, 40), "blue")])
    assert (other[2] - together[2]).abs().max() > 1e-4
    assert (encoder(["a table"])[0] - together[0]).abs().max() > 1e-4


def test_batch_layout(encoder: PromptEncoder) -> None:
    config = encoder.config
    batch = encoder.tokenize(["a chair", "make it red"], [None, Image.new("RGB", (32, 32))])
    assert batch["pixel_values"].shape == (64, 96)
    ids, start = batch["input_ids"], batch["query_start"]
    assert (ids == config.image_token_id).sum(1).tolist() == [0, config.image_tokens] == [0, 16]
    for row, first in zip(ids, start.tolist(), strict=True):
        assert row[first - 1] == config.img_start_token_id
        assert (row[first : first + 3] == config.query_token_id).all()
        assert (row[first + 3 :] == config.pad_token_id).all()
    assert torch.equal(batch["attention_mask"].sum(1), start + 3)


def test_only_the_queries_are_trained(encoder: PromptEncoder) -> None:
    encoder.freeze_language_model()
    batch = encoder.tokenize(["a chair", "make it red"], [None, Image.new("RGB", (32, 32), "red")])
    encoder(**batch).square().mean().backward()
    trained = [name for name, p in encoder.named_parameters() if p.grad is not None]
    assert trained == ["model.latent_queries"]
    assert encoder.latent_queries.grad.abs().min(dim=-1).values.shape == (1, 3)
    assert encoder.latent_queries.grad.abs().max() > 0
    encoder.model.gradient_checkpointing = True
    before = encoder.latent_queries.grad.clone()
    encoder.latent_queries.grad = None
    encoder.train()(**batch).square().mean().backward()
    torch.testing.assert_close(encoder.latent_queries.grad, before)


def test_language_model_logits_learn(encoder: PromptEncoder) -> None:
    ids = encoder.tokenizer.prompt_ids("a small red chair")
    ids = torch.tensor([ids])
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        logits = encoder.logits(encoder.hidden_states(encoder.embed(ids[:, :-1])))
        assert logits.shape == (1, ids.shape[1] - 1, encoder.config.text_config.vocab_size)
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_save_and_load(encoder: PromptEncoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "vlm")
    assert json.loads((tmp_path / "vlm.json").read_text())["name"] == "PromptEncoder"
    again = load_model(tmp_path / "vlm")
    again.tokenizer = encoder.tokenizer
    assert again.config == encoder.config
    assert torch.equal(again(["a chair"]), encoder(["a chair"]))


def test_tokenizer_of_another_model_is_refused(encoder: PromptEncoder, tokenizer_json: str) -> None:
    args = encoder.config.to_args() | {"query_token_id": 5}
    with pytest.raises(WeightsError, match="<image>"):
        PromptTokenizer(tokenizer_json, PromptEncoderConfig(**args))


@pytest.mark.parametrize("text", [None, "", "no tokenizer", "{}"])
def test_a_file_that_is_no_tokenizer_is_refused(encoder: PromptEncoder, tmp_path, text) -> None:
    path = tmp_path / "tokenizer.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(WeightsError, match="The tokenizer 'tokenizer.json' of .* cannot be used"):
        PromptTokenizer.from_file(path, encoder.config)


def test_full_size_names_and_both_layouts() -> None:
    with torch.device("meta"):
        model = build_model(*read_config(CONFIGS / "qwen2_5_vl_3b"))
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 3_085_389_824 + 668_684_288 + 131_072
    assert state["model.latent_queries"].shape == (1, 64, 2048)
    assert model.config.image_tokens == 256
    newer = {
        "module." + k.replace("visual.", "model.visual.", 1)
        if k.startswith("visual.")
        else k.replace("model.", "model.language_model.", 1)
        if "latent" not in k
        else k: v
        for k, v in state.items()
    } | {"lm_head.weight": state["model.embed_tokens.weight"], "model.dit.model.cls_role": state["model.norm.weight"]}
    parts = split_checkpoint(newer)
    assert parts["prompt_encoder"].keys() == state.keys()
    assert list(parts["grid_dit"]) == ["model.cls_role"]


def test_new_vocabulary_rows_are_the_mean() -> None:
    table = torch.randn(12, 4)
    longer = extend_vocabulary(table, known=9, added=2)
    assert longer.shape == (11, 4)
    torch.testing.assert_close(longer[9:], table[:9].mean(0).expand(2, 4))


def test_embedding_places_queries_and_pictures(encoder: PromptEncoder) -> None:
    """Value and gradient of every row are those of placing one token after another; a row without queries has none."""
    c = encoder.config
    texts = ["a red chair", "make it blue", "a tall wooden table"]
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    batch = encoder.tokenize(texts, [None, picture, picture])
    ids = torch.cat([batch["input_ids"], torch.full_like(batch["input_ids"][:1], 5)])
    encoder.zero_grad()
    embeds = encoder.embed(ids, batch["pixel_values"])
    weight = torch.randn(embeds.shape)
    (embeds * weight).sum().backward()
    found = encoder.latent_queries.grad.clone(), encoder.visual.merger.mlp[2].bias.grad.clone()
    features = encoder.image_features(batch["pixel_values"])
    vision, picture_weight = 0, torch.zeros_like(features)
    query_weight = torch.zeros_like(encoder.latent_queries[0])
    for row, line in enumerate(ids.tolist()):
        query = 0
        for column, token in enumerate(line):
            expected = encoder.model.embed_tokens.weight[token]
            if token == c.query_token_id:
                expected = encoder.latent_queries[0, query]
                query_weight[query] += weight[row, column]
                query += 1
            elif token == c.image_token_id:
                expected, picture_weight[vision] = features[vision], weight[row, column]
                vision += 1
            torch.testing.assert_close(embeds[row, column], expected)
    assert vision == len(features) and query == 0
    torch.testing.assert_close(found, (query_weight[None], picture_weight.sum(0)))


def test_many_prompts_at_once(encoder: PromptEncoder) -> None:
    prompts = [encoder.tokenizer.pieces(text, flag) for text in (*CAPTIONS, "", "<image> \n") for flag in (False, True)]
    assert encoder.tokenizer.many_ids(prompts) == [encoder.tokenizer.ids(prompt) for prompt in prompts]
