"""All stages on toy weights: events, seeds, prompts of every kind, cancelling, and what can go wrong."""

import json
import threading
import time

import pytest
import torch
from PIL import Image, ImageDraw

from gap3d_app import hub, pipeline, stages
from gap3d_app.errors import Cancelled, GenerationError, InputError, OutputError, WeightsError
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.mesh_reader import read_mesh
from gap3d_app.geometry.voxels import voxelize
from gap3d_app.pipeline import STAGES, Gap3DPipeline
from gap3d_app.prompt import Prompt
from gap3d_app.stages import blend_grids, stage_generator
from gap3d_app.values import Gaussians, Mesh, Occupancy, SLat, TokenGrid
from tests.geometry.shapes import solid_mesh, torus

FAST = dict(preset="fast")


@pytest.fixture
def picture():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 20, 50, 60), fill=(220, 40, 40, 255))
    return image


def test_events(tiny_pipeline):
    events = list(tiny_pipeline.stages("a red chair", settings=tiny_pipeline.settings(grid_steps=2)))
    assert [event.stage for event in events if event.done] == list(STAGES)
    grid = [event for event in events if event.stage == "grid"]
    assert [(event.step, event.of) for event in grid] == [(1, 2), (2, 2)]
    assert sum(event.stage == "structure" for event in events) == 6
    made = {event.stage: event.preview for event in events if event.done}
    kinds = dict(grid=TokenGrid, structure=Occupancy, slat=SLat, decode=Gaussians, mesh=Mesh)
    for stage, kind in kinds.items():
        assert isinstance(made[stage], kind)
    assert all(event.preview is None for event in events if not event.done)
    assert made["grid"].tokens.shape == (1, 1 + 4 + 16, 32) and made["grid"].patches.shape[1] == 16
    assert made["structure"].resolution == 8 and made["structure"].coords.shape[1] == 4
    assert len(made["slat"].feats) == len(made["structure"])
    asset = made["asset"]
    assert asset.mesh is made["mesh"] and set(asset.seconds) == set(STAGES)
    assert asset.mesh.colors.shape == asset.mesh.vertices.shape
    assert asset.mesh.vertices.abs().max() < 0.6 and 0 <= asset.mesh.colors.min() <= asset.mesh.colors.max() <= 1
    facts = asset.facts()
    assert facts["watertight"] and facts["faces"] == len(asset.mesh.faces)


def test_a_seed_repeats_and_seeds_differ(tiny_pipeline):
    first, again, other = (tiny_pipeline("a chair", seed=seed, **FAST) for seed in (5, 5, 6))
    assert torch.equal(first.mesh.vertices, again.mesh.vertices) and torch.equal(first.mesh.colors, again.mesh.colors)
    assert first.recipe == again.recipe
    assert first.mesh.vertices.shape != other.mesh.vertices.shape or not torch.equal(
        first.mesh.vertices, other.mesh.vertices
    )


def test_words_pictures_and_guidance_matter(tiny_pipeline, picture):
    runs = [
        tiny_pipeline("a chair", **FAST), tiny_pipeline("a boat", **FAST), tiny_pipeline(None, picture, **FAST),
        tiny_pipeline("a chair", picture, **FAST), tiny_pipeline("a chair", grid_guidance=9.0, **FAST),
    ]
    grids = [run.grid.tokens for run in runs]
    for i, grid in enumerate(grids):
        assert torch.isfinite(grid).all()
        assert all(not torch.allclose(grid, other, atol=1e-3) for other in grids[:i])
    assert runs[2].seconds.keys() == set(STAGES)


@pytest.mark.parametrize("stage", ["grid", "structure", "slat"])
def test_the_weights_choose_every_samplers_solver_and_interval(tiny_weights, tiny_pipeline, monkeypatch, stage):
    seen = {}
    entry = json.loads((tiny_weights / "pipeline.json").read_text())["args"][f"{stage}_sampler"]
    chosen = {**entry["args"], "solver": "ab2", "cfg_interval": [0.7, 1.0]}
    params = {key: value for key, value in entry["params"].items() if key != "cfg_interval"}
    monkeypatch.setitem(tiny_pipeline.args, f"{stage}_sampler", {**entry, "args": chosen, "params": params})
    run = FlowSampler.run

    def spy(self, *args):
        seen[len(seen)] = self
        return run(self, *args)

    monkeypatch.setattr(FlowSampler, "run", spy)
    for event in tiny_pipeline.stages("a chair", settings=tiny_pipeline.settings(**FAST)):
        if event.stage == "slat" and event.done:
            break
    which = ["grid", "structure", "slat"].index(stage)
    assert [sampler.solver for sampler in seen.values()] == ["ab2" if i == which else "euler" for i in range(3)]
    assert list(seen[which].cfg_interval) == [0.7, 1.0]


def test_the_weights_choose_from_where_on_a_voxel_is_occupied(tiny_pipeline, monkeypatch):
    found, threshold = [], 0.0
    decoder = tiny_pipeline.part("structure_decoder")
    hook = decoder.register_forward_hook(lambda _, args, logits: found.append(logits[0, 0]))
    for _ in range(2):
        events = tiny_pipeline.stages("a chair", settings=tiny_pipeline.settings(**FAST))
        coords = next(event.preview for event in events if event.stage == "structure" and event.done).coords
        events.close()
        assert torch.equal(coords[:, 1:], torch.argwhere(found[-1] > threshold).int())
        threshold = float(found[-1].quantile(0.9))
        monkeypatch.setitem(tiny_pipeline.args, "occupancy_threshold", threshold)
    hook.remove()


def test_edits_are_guided_where_the_weights_ask_for_it(tiny_pipeline, picture, monkeypatch):
    """Words beside a picture alone change; in a batch every prompt gets what it gets by itself."""
    def grids(*prompts):
        runs = [stages.Run(prompt, tiny_pipeline.settings(**FAST)) for prompt in prompts]
        for stage in ("prompt", "grid"):
            tiny_pipeline._run_stage(stage, runs)
        return [run.grid.tokens for run in runs]

    prompts = [Prompt.read("blue", picture), Prompt.read("a chair", None), Prompt.read("", picture)]
    plain = [grids(prompt)[0] for prompt in prompts]
    guidance = {"strength": 100.0, "limit": 1.0, "interval": [0.0, 1.0], "words": "the same"}
    monkeypatch.setitem(tiny_pipeline.args, "edit_guidance", guidance)
    alone = [grids(prompt)[0] for prompt in prompts]
    assert (alone[0] - plain[0]).abs().max() > 0.02
    assert torch.equal(alone[1], plain[1]) and torch.equal(alone[2], plain[2])
    for single, together in zip(alone, grids(*prompts), strict=True):
        assert torch.allclose(single, together, atol=2e-3)  # rounding, strengthened
    kept = Prompt.read("the same", picture)  # no difference, so nothing is moved
    monkeypatch.delitem(tiny_pipeline.args, "edit_guidance")
    (before,) = grids(kept)
    monkeypatch.setitem(tiny_pipeline.args, "edit_guidance", guidance)
    assert torch.allclose(grids(kept)[0], before, atol=1e-4)


def test_blend_ends_and_middle(tiny_pipeline, picture):
    alone = tiny_pipeline("", picture, **FAST).grid.tokens
    words, middle, image = (tiny_pipeline("blue", picture, blend=b, **FAST).grid.tokens for b in (0.0, 0.5, 1.0))
    assert torch.equal(image, alone) and not torch.allclose(words, alone, atol=1e-2)
    expected = torch.nn.functional.layer_norm((words + alone) / 2, alone.shape[-1:], eps=1e-5)
    assert torch.allclose(middle, expected, atol=1e-5)
    with pytest.raises(WeightsError, match="cannot blend"):
        blend_grids(TokenGrid(alone, 4, 4), TokenGrid(alone[:, :-1], 4, 4), 0.5)


def test_stages_draw_from_their_own_generators():
    draws = [torch.randn(4, generator=stage_generator(seed, stage)) for seed in (0, 1) for stage in ("grid", "slat")]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_formats_decide_what_is_decoded(tiny_pipeline, tmp_path):
    asset = tiny_pipeline("a chair", formats=["glb"], **FAST)
    assert asset.gaussians is None
    with pytest.raises(OutputError, match="add ply"):
        asset.save(tmp_path / "a.ply")
    assert "formats" not in asset.recipe["settings"]


def test_an_asset_keeps_no_maps_of_its_voxels(tiny_pipeline):
    """Those of a mesh decoder are larger than the asset; their bounds are six numbers."""
    assert set(tiny_pipeline("a chair", **FAST).slat.tensor.sites.cache) <= {"bounds"}


def test_recipe(tiny_pipeline, tiny_weights, picture, tmp_path):
    asset = tiny_pipeline(" a\tchair ", picture, **FAST)
    recipe = json.loads(asset.save(tmp_path / "a.json").read_text())
    assert recipe == asset.recipe
    assert recipe["prompt"] == "a chair" and recipe["image"]["background"] == "alpha"
    assert recipe["settings"]["grid_steps"] == 3 and recipe["structure_seed"] == 0
    assert recipe["weights"]["manifest_sha256"] == hub.verify(tiny_weights)
    assert "seconds" not in json.dumps(recipe)


def test_mesh_files(tiny_pipeline, tmp_path):
    import trimesh

    asset = tiny_pipeline("a chair", **FAST)
    for ending, scale in (("obj", 1.0), ("stl", 100.0)):
        loaded = trimesh.load(asset.save(tmp_path / f"a.{ending}"), process=True)
        assert len(loaded.faces) == len(asset.mesh.faces) and loaded.is_watertight
        assert abs(loaded.volume / scale**3 - _volume(asset.mesh)) < 1e-4


def _volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def test_typed_special_tokens_are_harmless(tiny_pipeline, picture):
    text = "a chair <|im_end|><|image_pad|><image>[IMG]<|endoftext|>"
    assert torch.isfinite(tiny_pipeline(text, **FAST).grid.tokens).all()
    assert torch.isfinite(tiny_pipeline(text, picture, **FAST).grid.tokens).all()


def test_too_many_tokens(tiny_pipeline):
    with pytest.raises(InputError, match="tokens"):
        tiny_pipeline("\u4e2d\u6587\u6a21\u578b" * 400, **FAST)
    tiny_pipeline("a chair", **FAST)


@pytest.mark.parametrize("cancel_at", [("grid", 2), ("structure", 1), ("slat", 2), ("mesh", 1)])
def test_cancel_stops_at_the_step_and_frees_the_models(tiny_pipeline, cancel_at):
    cancel, seen = threading.Event(), []
    with pytest.raises(Cancelled):
        for event in tiny_pipeline.stages("a chair", settings=tiny_pipeline.settings(**FAST), cancel=cancel):
            seen.append((event.stage, event.step))
            if seen[-1] == cancel_at:
                cancel.set()
    assert seen[-1] == cancel_at
    assert not pipeline._MODEL_LOCK.locked()


def test_closing_the_generator_frees_the_models(tiny_pipeline):
    run = tiny_pipeline.stages("a chair")
    next(run)
    assert pipeline._MODEL_LOCK.locked()
    run.close()
    assert not pipeline._MODEL_LOCK.locked()


def test_one_run_at_a_time(tiny_pipeline):
    first = tiny_pipeline.stages("a chair")
    next(first)
    waiting = tiny_pipeline.stages("a boat", cancel=lambda: time.monotonic() > deadline)
    deadline = time.monotonic() + 0.3
    with pytest.raises(Cancelled):
        next(waiting)
    first.close()
    next(tiny_pipeline.stages("a boat"))


def test_gradients_stay_on_between_steps(tiny_pipeline):
    """The stages switch gradients off for themselves only, although they are generators."""
    run = tiny_pipeline.stages("a chair")
    for _ in zip(range(4), run, strict=False):
        assert torch.is_grad_enabled()
    run.close()


def test_empty_structure_is_retried_then_reported(tiny_pipeline, monkeypatch):
    decoder = tiny_pipeline.part("structure_decoder")
    decode, results = type(decoder).forward, []

    def sometimes_empty(self, x):
        logits = decode(self, x)
        results.append(len(results) < empty)
        return logits - 1e6 if results[-1] else logits

    monkeypatch.setattr(type(decoder), "forward", sometimes_empty)
    empty = 1
    asset = tiny_pipeline("a chair", seed=7, **FAST)
    assert asset.recipe["structure_seed"] == 8 and results == [True, False]
    empty, results[:] = 99, []
    with pytest.raises(GenerationError, match="empty for 3 seeds, 7"):
        tiny_pipeline("a chair", seed=7, **FAST)
    assert len(results) == 3 and not pipeline._MODEL_LOCK.locked()


@pytest.mark.parametrize("part", ["grid_dit", "structure_decoder", "slat_flow", "slat_decoder_mesh"])
def test_values_that_are_not_finite_are_reported(tiny_weights, part):
    broken = Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32")
    for parameter in broken.part(part).parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not finite"):
        broken("a chair", **FAST)
    assert not pipeline._MODEL_LOCK.locked()


def test_settings_or_single_values(tiny_pipeline):
    with pytest.raises(TypeError):
        tiny_pipeline("a chair", settings=tiny_pipeline.settings(), seed=1)
    with pytest.raises(InputError, match="seed is -1"):
        tiny_pipeline("a chair", seed=-1)


def test_presets_come_from_the_weights(tiny_pipeline):
    assert tiny_pipeline.settings().grid_steps == 6 and tiny_pipeline.settings(preset="fast").grid_steps == 3
    assert tiny_pipeline.settings(preset="fast", grid_steps=9).grid_steps == 9
    assert tiny_pipeline.settings().structure_guidance == 5.0


def test_a_batch_repeats_the_single_runs(tiny_pipeline, picture):
    """Words, pictures and several pictures together, every one with a seed of its own; a failure stays its own."""
    prompts = ["a chair", Prompt.read("", picture), Prompt.read("a boat", [picture, other_side(picture)]), "a red lamp"]
    made = tiny_pipeline.batch(prompts, seeds=[3, 4, 5, 6], **FAST)
    for prompt, seed, asset in zip(prompts, (3, 4, 5, 6), made, strict=True):
        alone = tiny_pipeline(prompt, seed=seed, **FAST)
        assert asset.recipe == alone.recipe and asset.seconds.keys() == alone.seconds.keys() - {"asset"}
        assert torch.equal(asset.occupancy.coords, alone.occupancy.coords)
        assert torch.allclose(asset.slat.feats, alone.slat.feats, atol=1e-3)
        assert torch.allclose(asset.mesh.vertices, alone.mesh.vertices, atol=1e-3)
        assert torch.allclose(asset.gaussians.xyz, alone.gaussians.xyz, atol=1e-3)
    assert not pipeline._MODEL_LOCK.locked()
    with pytest.raises(InputError, match="seed is -1"):
        tiny_pipeline.batch(["a chair"], seeds=[-1])


def test_one_failure_of_a_batch_leaves_the_others(tiny_pipeline, monkeypatch):
    sample = stages._sample_latents

    def break_first(networks, runs):
        yield from sample(networks, runs)
        if runs[0].settings.seed == 1:
            runs[0].failure = GenerationError("broken")

    monkeypatch.setattr(stages, "_sample_latents", break_first)
    first, second = tiny_pipeline.batch(["a chair", "a boat"], seeds=[1, 2], **FAST)
    assert isinstance(first, GenerationError) and len(second.mesh.faces)


def other_side(picture: Image.Image) -> Image.Image:
    """The same outline with a blue patch."""
    picture = picture.copy()
    picture.paste((20, 20, 250, 255), (20, 30, 40, 40))
    return picture


@pytest.mark.parametrize("words", ["", "make it blue"])
def test_several_pictures(tiny_pipeline, picture, monkeypatch, words):
    """Both published modes reach both flows; the grids are those of the single pictures."""
    seen, run = [], FlowSampler.run

    def spy(self, model, noise, cond, uncond):
        seen.append((self.multi_cond, len(cond), len(uncond)))
        return run(self, model, noise, cond, uncond)

    pictures = [picture, other_side(picture)]
    single = [tiny_pipeline(words, one, **FAST).grid.tokens for one in pictures]
    monkeypatch.setattr(FlowSampler, "run", spy)
    made = [tiny_pipeline(words, pictures, multi_image=mode, **FAST) for mode in ("stochastic", "multidiffusion")]
    for asset, mode in zip(made, ("stochastic", "multidiffusion"), strict=True):
        assert torch.allclose(asset.grid.tokens, torch.cat(single), atol=1e-4)
        assert [item for item in seen if item[0] == mode] == 2 * [(mode, 2, 1)]
        assert asset.recipe["multi_image"] == mode and len(asset.recipe["image"]) == 2
    assert not torch.equal(made[0].slat.feats[:4], made[1].slat.feats[:4])
    many = tiny_pipeline(words, 3 * pictures, grid_steps=2, structure_steps=4, slat_steps=6)
    assert sum("The stage structure follows one picture a step and has 4 steps for 6" in w for w in many.warnings) == 1
    assert not any("one picture a step" in warning for warning in made[1].warnings + many.warnings[1:])
    with pytest.raises(InputError, match="one of stochastic, multidiffusion"):
        tiny_pipeline("", pictures, multi_image="all", **FAST)
    with pytest.raises(InputError, match="17 pictures; the limit is 16"):
        tiny_pipeline("", 17 * [picture], **FAST)


def test_a_variant_keeps_the_voxels(tiny_pipeline, picture, tmp_path):
    """Words, a picture and another seed change what is on the voxels of the mesh, never the voxels."""
    shape = solid_mesh(torus(), resolution=24)
    path = tmp_path / "torus.glb"
    export_glb(shape, path, texture_size=64, recipe={})
    voxels = voxelize(read_mesh(path), 8)
    given = [dict(prompt="a red ring"), dict(image=picture), dict(prompt="a red ring", seed=1)]
    made = [tiny_pipeline.variant(path, **one, **FAST) for one in given]
    for asset in made:
        assert torch.equal(asset.occupancy.coords[:, 1:], voxels) and asset.occupancy.resolution == 8
        assert asset.recipe["structure_seed"] is None and asset.recipe["mesh"]["voxels"] == len(voxels)
        assert asset.recipe["mesh"] == made[0].recipe["mesh"]
    feats = [asset.slat.feats for asset in made]
    assert not any(torch.allclose(feats[0], other, atol=1e-4) for other in feats[1:])
    batch = tiny_pipeline.batch([Prompt.read("a red ring", mesh=shape), "a chair"], **FAST)
    assert torch.equal(batch[0].occupancy.coords[:, 1:], voxelize(shape, 8))
    whole = Prompt.read("a red ring")
    assert torch.equal(tiny_pipeline.variant(path, whole, **FAST).mesh.vertices, made[0].mesh.vertices)
    with pytest.raises(InputError, match="give a prompt, a picture"):
        tiny_pipeline.variant(shape)
    for given in (dict(image=picture), dict(multi_image="multidiffusion")):
        with pytest.raises(TypeError, match="a Prompt holds its pictures"):
            tiny_pipeline(whole, **given, **FAST)


def test_seeds_reach_every_stage(tiny_pipeline, monkeypatch):
    drawn, draw = [], stage_generator
    monkeypatch.setattr(stages, "stage_generator", lambda *key: drawn.append(key) or draw(*key))
    tiny_pipeline("a chair", seed=9, **FAST)
    assert drawn == [(9, "grid"), (9, "structure"), (9, "slat")]
    torch.manual_seed(0)
    first = tiny_pipeline("a chair", seed=9, **FAST)
    torch.manual_seed(1)  # nothing draws from the process-wide generator
    assert torch.equal(first.mesh.vertices, tiny_pipeline("a chair", seed=9, **FAST).mesh.vertices)
