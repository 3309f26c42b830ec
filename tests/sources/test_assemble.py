"""Published layouts: recognised, put together, loaded with the right numbers; what is missing is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gap3d_app.errors import WeightsError
from gap3d_app.models.checkpoint import build_model, save_model
from gap3d_app.sources import catalog, store
from gap3d_app.sources.assemble import assemble, kind_of
from gap3d_app.sources.names import is_assembled, split
from tests.sources import published

pytestmark = pytest.mark.usefixtures("empty_hub_cache")
CPU = torch.device("cpu")


def install(repo: str, folder: Path) -> Path:
    """Put a folder where a download would."""
    entry = catalog.by_repo(repo)
    target = store.repo_dir(repo) / "snapshots" / entry.revision
    shutil.copytree(folder, target)
    for name in entry.files:  # a snapshot counts as here when every file that is used is
        (target / name).parent.mkdir(exist_ok=True)
        if not (target / name).exists() and not name.startswith("model"):
            (target / name).touch()
    return target


def test_kinds(releases):
    assert {name: kind_of(folder) for name, folder in releases.items()} == {name: name for name in releases}


def test_image_pipeline_alone_names_what_is_missing(releases):
    assembly = assemble(releases["image"])
    models = assembly.args["models"]
    assert set(models) == {
        "structure_decoder", "structure_flow", "slat_decoder_gs", "slat_decoder_rf", "slat_decoder_mesh", "slat_flow"
    }  # fmt: skip
    assert assembly.args["structure_sampler"]["params"]["cfg_strength"] == 5.0 and "grid_sampler" not in assembly.args
    assert "image prompts" in assembly.missing["image_encoder"]
    assert "weights pull dinov2" in assembly.missing["image_encoder"]
    assert "text prompts through TRELLIS's own" in assembly.missing["text_encoder"]
    assert "GAP3D checkpoint folder (none is published)" in assembly.missing["grid_dit"]
    for role, part in models.items():
        expected = published.network(role).state_dict()
        loaded = part.load(CPU, None).state_dict()
        assert loaded.keys() == expected.keys() and all(v.dtype == torch.float32 for v in loaded.values())


def test_a_folder_without_some_of_its_models(releases, tmp_path):
    folder = shutil.copytree(releases["image"], tmp_path / "image")
    (folder / "ckpts" / "slat_dec_gs.safetensors").unlink()
    (folder / "ckpts" / "slat_dec_rf.json").unlink()
    (folder / "ckpts" / "slat_flow_img.json").unlink()
    missing = assemble(folder).missing
    assert "enable radiance fields" in missing["slat_decoder_rf"]
    assert "enable Gaussians" in missing["slat_decoder_gs"] and "enable image and GAP3D" in missing["slat_flow"]
    (folder / "ckpts" / "ss_dec.safetensors").unlink()
    with pytest.raises(WeightsError, match="have no structure_decoder; it would enable any result"):
        assemble(folder)


def test_encoders_that_no_pipeline_file_names(releases, tmp_path):
    folder = shutil.copytree(releases["image"], tmp_path / "image")
    sizes = dict(in_channels=1, latent_channels=8, channels=[8, 16], num_res_blocks=1, num_res_blocks_middle=1)
    made = build_model("SparseStructureEncoder", sizes)
    save_model(made, folder / catalog.ENCODERS["structure_encoder"])
    parts = assemble(folder).args["models"]
    loaded = parts["structure_encoder"].load(CPU, None).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in made.state_dict().items())
    assert "slat_encoder" not in parts


def test_everything_together(releases):
    assembly = assemble([releases[name] for name in ("image", "text", "dinov2", "clip", "qwen", "gap3d")])
    assert not assembly.missing
    args = assembly.args
    assert args["structure_sampler"]["params"]["cfg_strength"] == 5.0
    assert args["text_structure_sampler"]["params"]["cfg_strength"] == 7.5
    assert args["grid_sampler"]["params"] == {"steps": 50, "guidance_scale": 3.0}
    networks = {role: part.load(CPU, None) for role, part in args["models"].items()}
    assert networks["text_structure_flow"].config.cond_channels == published.CLIP_SIZES["hidden_size"]
    assert networks["structure_flow"].config.cond_channels != published.CLIP_SIZES["hidden_size"]
    condition = networks["prompt_encoder"](["a red chair"])
    assert condition.isfinite().all() and condition.shape == (1, 4, 32)
    assert networks["text_encoder"](["a red chair", ""]).shape == (2, 12, 16)


def test_decoders_of_another_repository(releases):
    assert "weights pull trellis-image-large" in str(pytest.raises(WeightsError, assemble, releases["text"]).value)
    given = assemble([releases["text"], releases["image"]])
    assert {"structure_decoder", "text_structure_flow", "structure_flow"} <= set(given.args["models"])
    cached = install("microsoft/TRELLIS-image-large", releases["image"])
    models = assemble(releases["text"]).args["models"]
    assert models["structure_decoder"].files[0].is_relative_to(cached) and "structure_flow" in models
    entry = catalog.source("trellis-image-large")
    (cached / entry.files[-1]).unlink()  # no companion any more, but what is named is still there
    assert store.missing_files(entry) == [entry.files[-1]]
    models = assemble(releases["text"]).args["models"]
    assert models["structure_decoder"].files[0].is_relative_to(cached) and "structure_flow" not in models


def test_companions_come_from_the_cache(releases):
    for repo, name in (("facebook/dinov2-with-registers-large", "dinov2"), ("openai/clip-vit-large-patch14", "clip")):
        install(repo, releases[name])
    assert "image_encoder" in assemble(releases["image"]).args["models"]
    assert "text_encoder" not in assemble(releases["image"]).args["models"]
    assert "text_encoder" in assemble([releases["image"], releases["text"]]).args["models"]
    assert kind_of(store.find("facebook/dinov2-with-registers-large")) == "dinov2"


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_gap3d_reads_only_what_it_trained(tmp_path, newer, frozen):
    folder, public = published.qwen(tmp_path / "qwen", newer)
    checkpoint, state = published.gap3d(tmp_path / "gap3d", folder, frozen=frozen)
    image = published.image_pipeline(tmp_path / "image")
    parts = assemble([checkpoint, folder, image]).args["models"]
    encoder = parts["prompt_encoder"].load(CPU, None).state_dict()
    for key, value in public.items():
        if key != "model.embed_tokens.weight":
            assert torch.equal(encoder[key], value), key
    assert torch.equal(encoder["model.latent_queries"], state["model.latent_queries"])
    table, known = encoder["model.embed_tokens.weight"], published.KNOWN
    assert torch.equal(table[:known], public["model.embed_tokens.weight"][:known])
    assert torch.equal(table[known], state["model.embed_tokens.weight"][known]) and len(table) == known + 3
    assert ("image_encoder" in parts) == frozen  # the checkpoint's own copy of the tower


@pytest.mark.parametrize("ffn_dim", [64, 96])
def test_sizes_of_the_transformer_come_from_its_tensors(releases, tmp_path, ffn_dim):
    checkpoint, state = published.gap3d(tmp_path / "gap3d", releases["qwen"], ffn_dim)
    dit = assemble([checkpoint, releases["image"]]).args["models"]["grid_dit"].load(CPU, torch.bfloat16)
    assert dit.config.ffn_dim == ffn_dim and dit.config.input_size == 4
    key = "model.layers.0.feed_forward.linear_1.weight"
    assert torch.equal(dit.state_dict()[key], state["model.dit." + key].bfloat16())


def test_gap3d_alone_is_whole(releases):
    parts = assemble([releases["gap3d"], releases["image"]]).args["models"]
    assert {"prompt_encoder", "grid_dit", "image_encoder"} <= set(parts)
    assert parts["prompt_encoder"].load(CPU, None).state_dict()["model.layers.0.self_attn.q_proj.weight"].isnan().all()


def test_gap3d_without_language_model_says_so(releases, tmp_path):
    checkpoint, _ = published.gap3d(tmp_path / "small", releases["qwen"], frozen=False)
    missing = assemble([checkpoint, releases["image"]]).missing
    assert "weights pull qwen" in missing["prompt_encoder"] and "grid_dit" not in missing


@pytest.mark.parametrize("config", [True, False])
def test_torch_hub_names(releases, tmp_path, config):
    _, model = published.dinov2(tmp_path / "plain")
    hub = tmp_path / "hub"
    hub.mkdir()
    save_file(published.torch_hub_names(model.state_dict()), hub / "dinov2_vitl14_reg4.safetensors")
    if config:
        shutil.copy(tmp_path / "plain" / "config.json", hub)
        loaded = assemble([releases["image"], hub]).args["models"]["image_encoder"].load(CPU, None)
        assert loaded.config == model.config
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
    else:  # heads are of 64 channels without a config
        assert kind_of(hub) == "dinov2"
        assert assemble([releases["image"], hub]).args["models"]["image_encoder"].load(CPU, None).config.side == 4


def text_encoder(releases):
    together = assemble([releases["image"], releases["text"], releases["clip"]])
    return together.args["models"]["text_encoder"].load(CPU, None)


def test_clip_equals_transformers(releases):
    from transformers import CLIPTextConfig, CLIPTextModel

    ours = text_encoder(releases)
    sizes = published.CLIP_SIZES | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "projection_dim": 8}
    theirs = CLIPTextModel(CLIPTextConfig(**sizes, hidden_act="quick_gelu")).eval()
    own = {key.removeprefix("text_model."): value for key, value in ours.state_dict().items()}
    expected = theirs.state_dict()
    theirs.load_state_dict({key: own[key.removeprefix("text_model.")] for key in expected})
    ids = torch.randint(2, published.KNOWN, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids), theirs(input_ids=ids).last_hidden_state)


def test_clip_pads_with_the_end_token(releases):
    ours = text_encoder(releases)
    ids = ours.tokenize(["chair", "a chair " * 50])
    assert ids.shape == (2, 12) and (ids[0, -1] == 0).all() and ours.tokenizer.token_to_id("<|endoftext|>") == 0


@pytest.mark.parametrize("given, words", [
    ("nobody", "There is no weights folder 'nobody'"),
    ("nobody/nothing", "no weights folder 'nobody/nothing'"),
    ("microsoft/TRELLIS-image-large", r"not on this machine; get them \(3.30 GB\).*weights pull trellis-image-large"),
    ("trellis-text-base", "weights pull trellis-text-base"),
])
def test_what_is_not_here(given, words):
    with pytest.raises(WeightsError, match=words):
        assemble(given)


def test_wrong_folders(releases, tmp_path):
    with pytest.raises(WeightsError, match="of one kind"):
        assemble([releases["image"], shutil.copytree(releases["image"], tmp_path / "copy")])
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="kind 'bert'"):
        assemble([releases["image"], tmp_path / "bert"])
    with pytest.raises(WeightsError, match="Name at least one"):
        assemble([])
    path = tmp_path / "copy" / "pipeline.json"
    content = json.loads(path.read_text())
    content["args"]["models"]["slat_flow_model"] = "../image/ckpts/slat_flow_img"
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="outside the folder"):
        assemble(tmp_path / "copy")


def test_a_wrong_shape_is_named_with_both(releases, tmp_path):
    folder = shutil.copytree(releases["image"], tmp_path / "image")
    file = folder / "ckpts" / "slat_flow_img.safetensors"
    state = load_file(file)
    state["out_layer.bias"] = state["out_layer.bias"][:3].clone()
    save_file(state, file)
    with pytest.raises(WeightsError, match=r"'slat_flow_img'.*'out_layer.bias': expected \[8\], found \[3\]"):
        assemble(folder).args["models"]["slat_flow"].load(CPU, None)


def test_the_fingerprint_follows_the_files(releases, tmp_path):
    first = assemble(releases["image"]).fingerprint
    folder = shutil.copytree(releases["image"], tmp_path / "image")
    assert assemble(folder).fingerprint == first
    with (folder / "ckpts" / "slat_flow_img.safetensors").open("ab") as file:
        file.write(b" ")
    assert assemble(folder).fingerprint != first


def test_which_names_are_assembled(releases, tiny_weights):
    assert is_assembled(releases["image"]) and is_assembled([tiny_weights]) and is_assembled("trellis-text-base")
    assert split("a,b") == ["a", "b"] and split("a") == "a"
    assert not is_assembled(tiny_weights) and not is_assembled("gap3d-mini") and not is_assembled("nobody/nothing")
