"""A page with several sets of weights: what each shows, takes and refuses, through the documented endpoint."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from gap3d_app import fast_flows
from gap3d_app.errors import InputError
from gap3d_app.geometry.glb import export_glb
from gap3d_app.models import acceleration
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.settings import Settings
from gap3d_app.sources.offers import offer
from gap3d_app.ui import controls, events, keeping, runs, texts
from gap3d_app.ui import shelf as shelves
from gap3d_app.ui.page import Parts, build_page
from gap3d_app.ui.server import launch_page
from gap3d_app.ui.shelf import Shelf
from gap3d_app.ui.workdir import WorkDir
from tests.geometry.shapes import solid_mesh, torus

QUICK = dict(preset="fast", structure_steps=2, slat_steps=2)


KEYS = ["tiny", "image+text+dinov2+clip", "image+dinov2"]


@pytest.fixture(scope="module")
def names(tiny_weights, releases) -> list[str]:
    trellis = ",".join(str(releases[name]) for name in ("image", "text", "dinov2", "clip"))
    picture = ",".join(str(releases[name]) for name in ("image", "dinov2"))
    return [str(tiny_weights), trellis, picture]


@pytest.fixture(scope="module")
def served(names):
    """The page on three sets of weights, and the pipelines that were loaded."""
    loaded = []

    def load(one):
        loaded.append((one.key, Gap3DPipeline.from_pretrained(one.names, device="cpu", dtype="float32").preload()))
        return loaded[-1][1]

    work = WorkDir()
    page = build_page([offer(name) for name in names], load, work)
    url = launch_page(page, block=False)
    yield url.rstrip("/"), loaded, work
    page.close(verbose=False)
    work.close()


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    return Client(served[0], download_files=folder, verbose=False, analytics_enabled=False)


def generate(client, **values):
    return client.predict(**QUICK | values, api_name="/generate")


def refusal(client, **values) -> str:
    with pytest.raises(Exception) as caught:
        generate(client, **values)
    return str(caught.value)


@pytest.fixture
def pictures(tmp_path) -> list[dict]:
    made = []
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        image = Image.new("RGB", (64, 64), "white")
        image.paste(color, (20, 10, 44, 54))
        image.save(tmp_path / name)
        made.append(handle_file(tmp_path / name))
    return made


def test_text_models_run_with_their_own_guidance(client, names):
    _, recipe = generate(client, prompt="a red chair", model=KEYS[1])
    assert recipe["settings"]["structure_guidance"] == recipe["settings"]["slat_guidance"] == 7.5
    _, recipe = generate(client, prompt="a red chair", model=KEYS[0])
    assert recipe["settings"]["structure_guidance"] == 5.0
    assert "'image' have no prompt_encoder; it would enable text" in refusal(client, prompt="a", model=KEYS[2])


def test_words_with_a_picture_for_weights_that_follow_one(client, names, pictures):
    assert "words or a picture, not both" in refusal(client, prompt="a", image=pictures[0], model=KEYS[1])
    assert generate(client, image=pictures[0], model=KEYS[1])[1]["settings"]["structure_guidance"] == 5.0


@pytest.mark.parametrize("model", ["nothing", "../x", "/etc", 3, ["a"]])
def test_only_offered_weights_are_loaded(client, served, model):
    before = len(served[1])
    assert "There are no weights" in refusal(client, prompt="a", model=model) and len(served[1]) == before


@pytest.mark.parametrize("mode", ["stochastic", "multidiffusion"])
def test_several_pictures(client, pictures, mode):
    _, recipe = generate(client, image=pictures[0], views=pictures[1:], multi_image=mode)
    assert len(recipe["image"]) == 2 and recipe["multi_image"] == mode
    _, recipe = generate(client, views=pictures)
    assert len(recipe["image"]) == 2
    assert "one of stochastic, multidiffusion" in refusal(client, views=pictures, multi_image="all")
    assert "17 pictures; the limit is 16" in refusal(client, image=pictures[0], views=pictures * 8)


def test_the_shape_of_a_mesh_is_kept(client, tmp_path):
    export_glb(solid_mesh(torus(), resolution=24), tmp_path / "ring.glb", texture_size=64, recipe={})
    _, recipe = generate(client, prompt="a blue ring", mesh=handle_file(tmp_path / "ring.glb"))
    assert recipe["mesh"]["voxels"] > 10 and recipe["structure_seed"] is None
    (tmp_path / "bad.glb").write_bytes(b"solid not a mesh")
    message = refusal(client, prompt="a blue ring", mesh=handle_file(tmp_path / "bad.glb"))
    assert "GLB" in message and "\n" not in message
    assert texts.NOTHING_GIVEN in refusal(client, mesh=handle_file(tmp_path / "ring.glb"))


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.glb", "/etc/passwd", "file:///etc/passwd"])
@pytest.mark.parametrize("field", ["mesh", "views"])
def test_only_uploads_are_read(served, path, field):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    more = {"views": [None, "stochastic", None], "mesh": [None, "stochastic", None]}[field]
    more[0 if field == "views" else 2] = [file] if field == "views" else file
    values = ["a mug", None, "auto", "fast", 0, 0.0, *[None] * (len(Settings.specs()) - 4), *more, None, "glb"]
    reply = httpx.post(f"{served[0]}/gradio_api/call/generate", json={"data": values}, timeout=30)
    if reply.status_code == 200:
        event = reply.json()["event_id"]
        text = httpx.get(f"{served[0]}/gradio_api/call/generate/{event}", timeout=30).text
        assert "event: error" in text and "root:" not in text


def test_a_radiance_turntable_of_weights_that_have_one(client, served, names):
    _, recipe = generate(client, prompt="a red chair", model=KEYS[1], turntable="radiance")
    assert recipe["settings"]["turntable"] == "radiance"
    newest = max(served[2].results.iterdir(), key=lambda path: path.stat().st_mtime)
    assert type(keeping.kept(newest)[0]).__name__ == "RadianceField"
    assert "have no slat_decoder_rf" in refusal(client, prompt="a", model=KEYS[0], turntable="radiance")


def test_least_opacity_reaches_the_file(names, tmp_path):
    pipeline = Gap3DPipeline.from_pretrained(names[0], device="cpu", dtype="float32")
    shelf = Shelf([offer(names[0])], lambda _: pipeline)
    list(runs.wait_for_pipeline(shelf.loader(shelf.first)))
    guess = shelf.seconds(shelf.first, {"preset": "fast"}, words=True, picture=False, shape=False)
    work, sizes = WorkDir(), []
    try:
        for least in (0.0, 0.7):
            request = runs.Request("a mug", None, None, {"preset": "fast", "min_opacity": least})
            *_, result = runs.run(shelf, work, request, ("glb", "ply"))
            sizes.append(result.files["ply"].stat().st_size)
    finally:
        work.close()
    assert sizes[1] < sizes[0]
    learnt = shelf.seconds(shelf.first, {"preset": "fast"}, words=True, picture=False, shape=False)
    assert all(learnt[stage] != guess[stage] for stage in ("grid", "structure", "slat", "files"))


def test_the_first_run_says_that_it_compiles(names, monkeypatch):
    """And its seconds are not what the next one will take."""
    monkeypatch.setattr(acceleration, "compiled", lambda advance, any_length=None: advance)
    monkeypatch.setattr(fast_flows, "recorded_on", lambda device: True)
    for module in (fast_flows, shelves):
        monkeypatch.setattr(module, "WORTH_COMPILING", 1000)
    pipeline = Gap3DPipeline.from_pretrained(names[0], device="cpu", dtype="float32", compile=True)
    usual = dict(words=True, picture=False, shape=False)
    for compiled in (False, True):  # what is said before the pipeline is there
        assert Shelf([offer(names[0])], lambda _: None, compiled=compiled).compiles(KEYS[0], **usual) is compiled
    shelf = Shelf([offer(names[0])], lambda _: pipeline, compiled=True)
    list(runs.wait_for_pipeline(shelf.loader(shelf.first)))
    work, seen = WorkDir(), []
    try:
        for _ in range(2):
            seen.append((shelf.compiles(KEYS[0], **usual), shelf.seconds(KEYS[0], {"preset": "fast"}, **usual)))
            list(runs.run(shelf, work, runs.Request("a mug", None, None, {"preset": "fast"}), ("glb",)))
    finally:
        work.close()
    (first, guess), (second, learnt) = seen
    assert first and not second
    assert guess["grid"] == learnt["grid"] and guess["slat"] == learnt["slat"] and guess["decode"] != learnt["decode"]
    assert shelf.seconds(KEYS[0], {"preset": "fast"}, **usual)["slat"] != guess["slat"]
    assert texts.COST_COMPILE in events.cost_html({"grid": 5.6}, compiles=True)
    assert texts.COST_COMPILE not in events.cost_html({"grid": 5.6})


def test_one_pipeline_at_a_time_is_kept(names):
    made = []

    def load(one):
        pipeline = Gap3DPipeline.from_pretrained(one.names, device="cpu", dtype="float32")
        made.append(weakref.ref(pipeline))
        return pipeline

    shelf = Shelf([offer(name) for name in names[:2]], load)
    for key in KEYS[:2]:
        list(runs.wait_for_pipeline(shelf.loader(key)))
    gc.collect()
    assert made[0]() is None and made[1]() is shelf.loader(KEYS[1]).pipeline
    with pytest.raises(InputError, match="There are no weights 'x' here; choose one of"):
        shelf.offer("x")


def test_controls_follow_the_weights(served, names):
    """What `choose` shows and hides, for each of the three."""
    parts = Parts(advanced={"turntable": "turntable"}, **{name: name for name in (
        "note", "words_box", "pictures_box", "views_box", "grid_row")})
    found = [controls.shown(parts, offer(name)) for name in names]
    shown = [{key: value["visible"] for key, value in one.items() if "visible" in value} for one in found]
    everything = dict.fromkeys(("words_box", "pictures_box", "views_box", "grid_row"), True)
    assert shown[0] == everything
    assert shown[1] == everything | {"grid_row": False}
    assert shown[2] == everything | {"grid_row": False, "words_box": False}
    assert [one["turntable"]["choices"] for one in found] == [["mesh", "gaussians"]] + 2 * [
        ["mesh", "gaussians", "radiance"]
    ]


def test_the_page_names_every_model(served, names):
    config = httpx.get(f"{served[0]}/config").json()
    (choice,) = (part for part in config["components"] if part["props"].get("elem_id") == "model")
    assert choice["props"]["choices"] == [[offer(name).label, key] for name, key in zip(names, KEYS, strict=True)]
    assert not any(name in httpx.get(f"{served[0]}/config").text for name in names), "folders of the server are shown"
    assert choice["props"]["visible"] is True


def test_the_cost_in_words():
    assert "About 6 s here." in events.cost_html({"grid": 5.6, "files": 0.3})
    assert "About 20 min here." in events.cost_html({"grid": 1200.0, "files": 0.3})


def test_a_note_says_when_there_is_no_card(names):
    one = offer(names[1])
    large = replace(one, sizes={"slat_flow": 10**9})
    assert texts.NO_CARD in controls.note_html(large, card=False)
    assert texts.NO_CARD not in controls.note_html(large, card=True)
    assert texts.NO_CARD not in controls.note_html(one, card=False)
    assert "<b>" not in controls.note_html(replace(one, note="<b>"), True)


def test_a_note_counts_what_weights_know_by_name(names):
    few = replace(offer(names[1]), args={"vocabulary": {"things": "chair, top <hat>", "words": "chair hat top"}})
    html = controls.note_html(few, card=True)
    assert texts.THINGS.format(count=2) in html and "chair, top &lt;hat&gt;" in html
    assert "<details" not in controls.note_html(replace(few, args={}), card=True)


def test_results_for_other_processes_and_folders(tiny_weights, tmp_path):
    pipe = Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32")
    asset = pipe("a mug", preset="fast")
    again = keeping.unpacked(keeping.packed(asset))
    assert again.recipe == asset.recipe and again.gaussians.aabb == asset.gaussians.aabb
    first, second = (one.save(Path(tmp_path / name)) for one, name in ((asset, "a.ply"), (again, "b.ply")))
    assert first.read_bytes() == second.read_bytes()
    for shown in (dict(turntable="gaussians"), dict(turntable="mesh", turntable_shading="normal")):
        asset.recipe["settings"] |= shown
        keeping.keep(asset, tmp_path)
        kept, shading = keeping.kept(tmp_path)
        assert type(kept) is type(asset.turned) and shading == shown.get("turntable_shading", "color")
