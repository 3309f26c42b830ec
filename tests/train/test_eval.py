"""The evaluation: metrics on shapes whose answer is known, and a run on networks of a few thousand parameters."""

import json
import math
import subprocess
import sys

import pytest
import torch

from gap3d_app import hub
from gap3d_app.models.checkpoint import build_model, save_model
from gap3d_app.samplers import sampler_params
from gap3d_app.values import Mesh
from tests import tiny
from tests.geometry.shapes import box, solid_mesh, sphere, torus
from train.data.fields import surface_fields
from train.data.packed import Voxels
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.split import is_held_out
from train.eval.batched import Made
from train.eval.curves import read_log
from train.eval.geometry_metrics import (
    best_yaw_iou,
    count_parts,
    f_score,
    mesh_state,
    part_shares,
    turned,
    voxel_grid,
    voxel_iou,
)
from train.eval.held_out import HeldOut, cut_out_picture, names_color, pack_voxels
from train.eval.image_metrics import albedo_renders, color_histogram, histogram_distance, psnr, render_psnr
from train.eval.mini import FIGURES, evaluate, open_session, write_results
from train.eval.presets import fast_preset, public_fast, public_samplers
from train.eval.probe import Probe, ProbeConfig
from train.eval.session import Counts

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def joined(*meshes: Mesh) -> Mesh:
    """Meshes side by side in one."""
    starts = [0]
    for mesh in meshes:
        starts.append(starts[-1] + len(mesh.vertices))
    faces = torch.cat([m.faces + start for m, start in zip(meshes, starts, strict=False)])
    return Mesh(torch.cat([m.vertices for m in meshes]), faces)


def moved(mesh: Mesh, *shift: float, scale: float = 1.0) -> Mesh:
    return Mesh(mesh.vertices * scale + torch.tensor(shift), mesh.faces, mesh.colors)


def test_equal_shapes_score_full() -> None:
    ball = solid_mesh(sphere(), color=lambda p: p + 0.5)
    grid = voxel_grid(surface_fields(ball).coords, 32)
    assert voxel_iou(grid, grid) == 1 and voxel_iou(grid, grid & False) == 0
    assert f_score(ball, ball, seed=3) == {"f": 1.0, "precision": 1.0, "recall": 1.0}
    pictures = albedo_renders(ball, 2, 48)
    assert render_psnr(pictures, pictures) == {"union": 100.0, "whole": 100.0}


def test_f_score_sees_what_is_missing_and_what_is_too_much() -> None:
    ball, ring = solid_mesh(sphere(0.2)), solid_mesh(torus(0.35, 0.06))
    both = joined(ball, ring)
    scores = f_score(both, ball)
    area = 4 * math.pi * 0.2**2, 4 * math.pi**2 * 0.35 * 0.06
    assert scores["recall"] == 1
    assert scores["precision"] == pytest.approx(area[0] / sum(area), abs=0.03)
    grown = f_score(moved(ball, 0, 0, 0, scale=1 + 2 / 64 / 0.2), ball)
    assert grown["f"] == 0
    assert f_score(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), ball)["f"] == 0


def test_yaw_is_found() -> None:
    beam = voxel_grid(surface_fields(solid_mesh(box((0.42, 0.1, 0.2)))).coords, 32)
    assert torch.equal(turned(beam)[0], beam)
    quarter = beam.transpose(0, 1).flip(0)  # 90 degrees about Z
    assert torch.equal(turned(beam)[6], quarter)
    assert voxel_iou(beam, quarter) < 0.4
    iou, yaw = best_yaw_iou(quarter, beam)
    assert iou == 1 and yaw in (90.0, 270.0)
    assert best_yaw_iou(beam, beam) == (1.0, 0.0)


def test_parts_and_holes() -> None:
    ball = solid_mesh(sphere(0.2), resolution=24)
    pair = joined(moved(ball, -0.25, 0, 0), moved(ball, 0.25, 0, 0))
    state = mesh_state(pair, 100_000)
    assert (state.parts, state.watertight) == (2, True) and state.main_share == pytest.approx(0.5, abs=1e-6)
    assert count_parts(pair) == 2
    assert not state.usable(1) and state.usable(2) and mesh_state(ball).usable(1)
    assert part_shares(pair.vertices.numpy(), pair.faces.numpy()).tolist() == pytest.approx([0.5, 0.5])
    open_ball = Mesh(ball.vertices, ball.faces[:-3])
    assert not mesh_state(open_ball, 100_000).watertight
    assert not mesh_state(None).usable(5)
    broken = Mesh(ball.vertices * math.nan, ball.faces)
    assert not mesh_state(broken).usable(5)


def test_psnr_counts_the_silhouettes_only() -> None:
    truth = torch.zeros(1, 10, 10, 4)
    truth[:, :5, :4] = 1  # a fifth of the picture
    made = truth.clone()
    made[:, :5, :4, :3] = 0.9
    scores = render_psnr(made, truth)
    assert scores["union"] == pytest.approx(20, abs=1e-3)
    assert scores["whole"] == pytest.approx(20 + 10 * math.log10(5), abs=1e-3)
    shifted = truth.roll(1, 2)  # colours are right, the outline is not
    assert render_psnr(shifted, truth)["union"] == pytest.approx(-10 * math.log10(2 / 5), abs=1e-3)
    assert psnr(truth, truth) == 100


def test_histograms_tell_colors_apart() -> None:
    red = torch.tensor([0.83, 0.11, 0.12]).expand(4, 4, 3)
    mask = torch.ones(4, 4, dtype=torch.bool)
    rose, blue = red * 0.95 + 0.02, torch.tensor([0.12, 0.31, 0.83]).expand(4, 4, 3)
    a, b, c = (color_histogram(x, mask) for x in (red, rose, blue))
    assert float(a.sum()) == pytest.approx(1, abs=1e-5)
    assert histogram_distance(a, a) == 0
    assert histogram_distance(a, b) < 0.3 < 0.8 < histogram_distance(a, c)


def test_held_out_data() -> None:
    data = HeldOut(1234, torch.device("cpu"), 32)
    again = HeldOut(1234, torch.device("cpu"), 32)
    prompts = [data.prompt(i) for i in range(30)]
    assert prompts == [again.prompt(i) for i in range(30)]
    assert {p.length for p in prompts} == {"rich", "sentence", "short"}
    assert all(is_held_out(data.asset(i).spec) for i in range(30))
    edit = data.edit(0)
    assert is_held_out(edit.target.spec) and edit.source.spec != edit.target.spec and edit.instruction
    assert names_color("A Light Grey duck", "silver") and not names_color("a colored duck", "red")


def test_packed_like_the_training_data() -> None:
    asset = HeldOut(1234, torch.device("cpu"), 32).asset(0)
    fields = asset.fields()
    voxels: Voxels = pack_voxels([fields, fields])
    count = len(fields)
    assert voxels.features().shape == (2 * count, 206)
    assert voxels.coords[count - 1, 0] == 0 and voxels.coords[count, 0] == 1
    assert voxels.sdf.abs().max() <= 1
    near = fields.sdf.float().abs() < 0.45  # beyond half a voxel the packed distances are clipped
    assert torch.allclose(voxels.sdf[:count][near] / 2, fields.sdf.float()[near], atol=0.5 / 127 + 1e-3)
    assert torch.allclose(voxels.colors[:count, 0], fields.colors[:, 0].float() / 255)
    picture = cut_out_picture(asset.views(slice(1, 2), 64))
    assert picture.mode == "RGBA" and picture.size == (64, 64) and picture.getextrema()[3] == (0, 255)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """tests.tiny with the parts that only the evaluation reads."""
    folder = tiny.build(tmp_path_factory.mktemp("weights") / "tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        structure = dict(latent_channels=8, channels=[8, 16], num_res_blocks=1, num_res_blocks_middle=1)
        slat = dict(resolution=8, in_channels=206, model_channels=32, latent_channels=8, num_blocks=1, num_heads=2,
                    mlp_ratio=2, attn_mode="swin", window_size=8)
        for role, name, args in (("structure_encoder", "SparseStructureEncoder", structure),
                                 ("slat_encoder", "SLatEncoder", slat)):
            save_model(build_model(name, args), folder / role)
        from train.data.pack import CATEGORY_NAMES

        Probe(ProbeConfig(8, CATEGORY_NAMES, list(COLORS), list(FINISHES))).save(folder / "probe")
    hub.write_manifest(folder)
    return folder


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_every_figure_on_tiny_networks(weights, tmp_path, device) -> None:
    session = open_session(weights, device, "fast", counts=Counts(2, 1, 2, 1), quiet=True)
    report = evaluate(session)
    wanted = {"structure_vae_iou", "slat_vae_psnr", "slat_vae_f_score", "judge_real", "judge_made", "grid_cosine",
              "text_category", "text_color", "usable_mesh", "image_category", "image_iou",
              "image_canonical_category", "image_canonical_iou", "edits", "fast_preset"}
    assert set(report["figures"]) == wanted
    for figure in report["figures"].values():
        assert math.isfinite(figure["value"]) and figure["definition"]
    assert set(report["seconds"]) == set(FIGURES)
    some = {**report, "figures": {k: v for k, v in report["figures"].items() if k != "edits"}}
    write_results(session, some, tmp_path)
    edits = {**report, "figures": {"edits": report["figures"]["edits"]}}
    assert write_results(session, edits, tmp_path) == report == json.loads((tmp_path / "eval.json").read_text())
    rows = json.loads((tmp_path / "samples.json").read_text())
    assert len(rows["text"]) == 2 and len(rows["edits"]) == 2
    assert {p.name for p in tmp_path.glob("*.png")} == {f"{k}.png" for k in session.tiles}
    write_card(weights, tmp_path)


def test_the_fast_preset_against_the_standard_one(weights, monkeypatch) -> None:
    """The truth from the standard preset, nothing from the fast one for one of two pictures, the truth else."""
    session = open_session(weights, "cpu", counts=Counts(2, 2, 2, 2), quiet=True)
    asked = []

    def make(requests, settings):
        asked.append((settings.preset, [(bool(one.text), one.seed) for one in requests]))
        for number in range(len(requests)):
            lost = settings.preset == "fast" and number == 1 and not requests[0].text
            yield Made(torch.zeros(1), None, None if lost else session.data.asset(number).surface())

    monkeypatch.setattr(session.pipe, "make", make)
    (figure,) = fast_preset(session)
    seeds = [[(words, 0), (words, 1)] for words in (False, False, True, True)]
    assert asked == list(zip(["standard", "fast"] * 2, seeds, strict=True))
    assert figure.value == -0.5 and figure.reached is False and figure.count == 2
    assert figure.details["image_standard"] == figure.details["text_agreement"] == 1.0
    assert figure.details["image_agreement"] == 0.5 and figure.details["text_change"] == 0.0


def test_the_public_fast_preset_takes_the_public_samplers(weights, monkeypatch) -> None:
    """Steps, solvers and times of the public checkpoints, guidance of the weights, and that for this figure only."""
    session = open_session(weights, "cpu", counts=Counts(2, 2, 2, 2), quiet=True)
    pipe, own, taken = session.pipe, session.pipe.args, []

    def make(requests, settings):
        steps = settings.grid_steps, settings.structure_steps, settings.slat_steps
        samplers = [sampler_params(pipe.args, f"{name}_sampler", settings.preset) for name in ("structure", "slat")]
        taken.append((steps, *((s.get("solver", "euler"), s["rescale_t"], s["cfg_strength"]) for s in samplers)))
        for number in range(len(requests)):
            yield Made(torch.zeros(1), None, session.data.asset(0 if settings.preset == "fast" else number).surface())

    monkeypatch.setattr(pipe, "make", make)
    (figure,) = public_fast(session)
    strengths = [own[f"{name}_sampler"]["params"]["cfg_strength"] for name in ("structure", "slat")]
    exact = ((50, 25, 25), *(("euler", 3.0, strength) for strength in strengths))
    fast = ((10, 10, 6), *(("ab2", 1.5, strength) for strength in strengths))
    assert taken == [exact, fast, exact, fast]
    change = figure.details["image_fast"] - 1.0  # of the second asset, made as the first
    assert figure.value == figure.details["image_change"] == pytest.approx(change) and figure.value < -0.02
    assert figure.details["image_change_standard_error"] == pytest.approx(abs(change))
    assert figure.reached is False and session.samples["public_fast"][0]["image_change"] == 0.0
    assert pipe.args is own and pipe.settings() == session.settings
    with pytest.raises(RuntimeError), public_samplers(pipe):
        raise RuntimeError
    assert pipe.args is own


def write_card(weights, folder) -> None:
    """The model card of these figures and of made-up logs."""
    runs = folder / "runs"
    for stage in ("structure_vae", "slat_flow"):
        (runs / stage).mkdir(parents=True)
        lines = [{"step": i, "loss": 2.0**-i, "seconds": 12.0 * i} for i in range(1, 21)]
        lines += [{"step": 20, "test_iou": 0.5}]
        text = "\n".join(map(json.dumps, lines)) + '\n{"step": 21, "lo'  # killed while it wrote
        (runs / stage / "log.jsonl").write_text(text)
    log = read_log(runs / "structure_vae" / "log.jsonl")
    assert (log.name, log.steps, log.minutes, log.followed) == ("structure_vae", 20, 4.0, ["test_iou"])
    result = subprocess.run(
        [sys.executable, "-m", "train.eval.card", "--eval", folder, "--weights", weights, "--runs", runs,
         "--count", "9000", "--edits", "18000"], capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    card = (weights / "README.md").read_text()
    assert "9,000 procedural assets and 18,000 edit pairs (45,000 meshes)" in " ".join(card.split())
    assert "| structure_vae | 20 | 4.0 |" in card and "| structure VAE IoU |" in card
    assert "| slat_encoder |" in card and "samples.jpg" in card and str(folder) not in card
    for name in ("curves.png", "samples.jpg", "samples_image.jpg", "samples_edits.jpg"):
        assert (weights / name).is_file()
    hub.verify(weights)  # the card changes nothing that the app checks


def test_batches_repeat_the_app(weights) -> None:
    """A request in a batch gives what the app makes of it alone."""
    from train.eval.batched import Request

    session = open_session(weights, "cpu", "fast", quiet=True)
    texts = ["a red chair", "a tall blue lamp with a long description"]
    made = list(session.pipe.make([Request(t, seed=5 + i) for i, t in enumerate(texts)], session.settings))
    for i, (text, result) in enumerate(zip(texts, made, strict=True)):
        asset = session.pipe(text, preset="fast", seed=5 + i)
        assert torch.allclose(result.tokens, asset.grid.tokens[0], atol=1e-3)
        assert torch.equal(result.coords.int(), asset.occupancy.coords[:, 1:].int())
        assert result.mesh.faces.shape == asset.mesh.faces.shape
        assert torch.allclose(result.mesh.vertices, asset.mesh.vertices, atol=1e-3)
