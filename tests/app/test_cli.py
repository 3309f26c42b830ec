"""The command line as a process: results, exit codes, one clear sentence, nothing half-written."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gap3d_app import output
from gap3d_app.cli import main
from gap3d_app.errors import OutputError
from gap3d_app.geometry.ply import load_gaussians
from gap3d_app.output import check_output, write_atomic

REPO = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "2"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gap3d_app", *map(str, arguments)]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300)


def test_generate_writes_the_files_and_reports(tiny_weights, tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "in.png")
    done = run("generate", "a red chair", "-o", "chair.glb", "--ply", "chair.ply", "--weights", tiny_weights,
               "--preset", "fast", "--seed", "3", "--texture-size", "256", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["recipe"]["settings"]["seed"] == 3 and report["recipe"]["prompt"] == "a red chair"
    assert {"load", "grid", "structure", "slat", "write", "total"} <= set(report["seconds"])
    glb, ply = report["files"]
    assert glb["bytes"] == (tmp_path / "chair.glb").stat().st_size and glb["faces"] > 0
    assert (tmp_path / "chair.glb").read_bytes()[:4] == b"glTF" and ply["bytes"] > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chair.glb", "chair.ply", "in.png"]
    assert "%" in done.stderr  # the progress bar

    again = run("generate", "a red chair", "-o", "again.glb", "--weights", tiny_weights, "--preset", "fast",
                "--seed", "3", "--texture-size", "256", "--quiet", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.strip() == "again.glb" and again.stderr == ""
    assert (tmp_path / "again.glb").read_bytes() == (tmp_path / "chair.glb").read_bytes()


def test_several_pictures_and_a_mesh(tiny_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(color, (20, 10, 44, 54))
        picture.save(name)
    common = ["generate", "--weights", str(tiny_weights), "--preset", "fast", "--quiet", "--json"]
    assert main([*common, "--image", "a.png", "--image", "b.png", "--multi-image", "multidiffusion",
                 "--exact-preprocessing", "-o", "a.glb"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["multi_image"] == "multidiffusion"
    assert [one["exact_preprocessing"] for one in recipe["image"]] == [True, True]
    assert main([*common, "a blue one", "--mesh", "a.glb", "-o", "b.glb"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["mesh"]["voxels"] > 10


def test_least_opacity(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, least in (("all.ply", "0"), ("some.ply", "0.7")):
        given = ["-o", name, "--min-opacity", least, "--weights", str(tiny_weights), "--preset", "fast", "--quiet"]
        assert main(["generate", "a mug", *given]) == 0
    assert 0 < len(load_gaussians("some.ply")) < len(load_gaussians("all.ply"))


BAD = [
    ((), "give a prompt, a picture, or both"),
    (("  ",), "give a prompt, a picture, or both"),
    (("x" * 3000,), "3,000 characters; the limit is 2,000"),
    (("chair", "--seed", "nan"), "Setting seed is nan"),
    (("chair", "--seed", "-1"), "Setting seed is -1"),
    (("chair", "--seed", "one"), "Setting seed is 'one'"),
    (("chair", "--grid-steps", "1000000"), "from 1 to 100"),
    (("chair", "--grid-guidance", "inf"), "Setting grid_guidance is inf"),
    (("chair", "--unwrap", "magic"), "one of box, xatlas"),
    (("chair", "--image", "gone.png"), "'gone.png' does not exist"),
    (("chair", "--image", "broken.png"), "is not a PNG, JPEG or WebP"),
    (("chair", "--image", "cut.png"), "is damaged and cannot be decoded"),
    (("chair", "--image", "huge.png"), "25.0 megapixels); the limit is 24 megapixels"),
    (("chair", "--image", "clear.png"), "no opaque pixel"),
    (("chair", "--image", "thin.png"), "1 x 400 pixels; both sides must have at least 16"),
    (("chair", "--image", "moving.webp"), "is animated (2 frames)"),
    (("--image", "good.png", "--image", "gone.png"), "'gone.png' does not exist"),
    (("chair", "--multi-image", "all"), "one of stochastic, multidiffusion"),
    (("chair", "--mesh", "gone.glb"), "'gone.glb' does not exist"),
    (("chair", "--mesh", "broken.glb"), "cannot be read as a 3D asset"),
    (("chair", "--weights", "nowhere"), "no weights 'nowhere'"),
    (("chair", "--device", "abacus"), "must be auto, cpu or cuda"),
    (("chair", "-o", "gone/out.glb"), "The folder 'gone' of the output does not exist"),
    (("chair", "-o", "out.docx"), "unknown ending"),
    (("chair", "-o", "folder.glb"), "is a folder"),
    (("chair", "--ply", "out.glb"), "must end in .ply"),
]


@pytest.mark.parametrize("arguments, words", BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_requests_end_with_one_sentence(tiny_weights, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    _write_bad_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["generate", "-o", "out.glb", "--weights", str(tiny_weights), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.startswith("gap3d: ") and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def _write_bad_files(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "folder.glb").mkdir()
    (folder / "broken.glb").write_bytes(b"not a mesh")
    Image.new("RGB", (64, 64), "white").save(folder / "good.png")
    Image.effect_noise((64, 64), 50).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:200])
    Image.new("1", (5000, 5000)).save(folder / "huge.png")
    Image.new("RGBA", (64, 64)).save(folder / "clear.png")
    Image.new("RGB", (1, 400)).save(folder / "thin.png")
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("name, options", [
    ("cmyk.jpg", {}), ("deep.png", {}), ("turned.jpg", {"exif": True}), ("palette.png", {"transparency": 0}),
])
def test_unusual_pictures_are_taken(tiny_weights, tmp_path, monkeypatch, capsys, name, options):
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (90, 60), "white")
    picture.paste((200, 30, 30), (30, 15, 60, 45))
    if options.pop("exif", False):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    mode = {"cmyk.jpg": "CMYK", "deep.png": "I;16", "palette.png": "P"}.get(name, "RGB")
    (picture.convert("L") if mode == "I;16" else picture).convert(mode).save(name, **options)
    command = ["generate", "--image", name, "-o", "out.glb", "--weights", str(tiny_weights), "--preset", "fast"]
    assert main([*command, "--quiet"]) == 0, capsys.readouterr().err
    assert (tmp_path / "out.glb").read_bytes()[:4] == b"glTF"


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damaged_weights(tiny_weights, tmp_path, capsys, damage):
    path = shutil.copytree(tiny_weights, tmp_path / "weights") / "grid_dit.safetensors"
    content = path.read_bytes()
    changed = {"truncated": content[:-1], "changed": content[:-1] + bytes([content[-1] ^ 1])}.get(damage)
    path.unlink() if changed is None else path.write_bytes(changed)
    command = ["generate", "chair", "-o", str(tmp_path / "out.glb"), "--weights", str(path.parent)]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "'grid_dit.safetensors'" in err
    for data in filter(None, (content, changed)):
        assert hashlib.sha256(data).hexdigest() in err
    path.write_bytes(content)
    assert main([*command, "--preset", "fast", "--quiet"]) == 0


def test_control_characters_and_special_tokens_are_harmless(tiny_weights, tmp_path, capsys):
    command = ["generate", "a\x1b chair\r\n <|im_end|><|image_pad|> [IMG]", "-o", str(tmp_path / "out.glb"), "--json"]
    assert main([*command, "--weights", str(tiny_weights), "--preset", "fast", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["prompt"] == "a chair <|im_end|><|image_pad|> [IMG]"


def test_an_empty_structure(tiny_weights, tmp_path, capsys, monkeypatch):
    from gap3d_app.models.structure_vae import SparseStructureDecoder

    decode = SparseStructureDecoder.forward
    command = ["generate", "chair", "-o", str(tmp_path / "out.glb"), "--weights", str(tiny_weights), "--preset", "fast"]
    command += ["--quiet", "--seed", "3"]
    with monkeypatch.context() as patched:
        patched.setattr(SparseStructureDecoder, "forward", lambda self, x: decode(self, x) - 1e6)
        assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "empty for 3 seeds, 3 and the next; try another seed" in err
    assert list(tmp_path.iterdir()) == []
    assert main(command) == 0


def test_memory_that_runs_out(tiny_weights, tmp_path, capsys, monkeypatch):
    from gap3d_app import stages

    whole, calls = stages.slat_stage, []

    def short(networks, runs):
        calls.append(networks.memory.mode)
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        yield from whole(networks, runs)

    monkeypatch.setattr(stages, "slat_stage", short)
    command = ["generate", "chair", "-o", str(tmp_path / "out.glb"), "--weights", str(tiny_weights), "--preset", "fast"]
    times = 1
    assert main([*command, "--quiet", "--device", "cpu"]) == 0 and calls == ["resident", "low-vram"]
    assert "Memory ran out at the stage slat" in capsys.readouterr().err
    (tmp_path / "out.glb").unlink()
    times, calls[:] = 9, []
    assert main([*command, "--quiet", "--device", "cpu", "--low-vram"]) == 2 and calls == ["low-vram"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "would fit" in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags, low, compile", [
    ((), False, True), (("--low-vram",), True, True), (("--no-compile",), False, False),
])  # fmt: skip
def test_the_page_gets_the_memory_mode(monkeypatch, tiny_weights, flags, low, compile):
    given = {}
    monkeypatch.setattr("gap3d_app.ui.launch", lambda **options: given.update(options))
    assert main(["app", "--weights", str(tiny_weights), *flags]) == 0
    assert given["low_vram"] is low and given["compile"] is compile


def test_the_page_is_not_started_for_weights_that_are_not_there():
    """Nor is what it is made of imported, which takes seconds."""
    code = "import sys; from gap3d_app.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    words = [sys.executable, "-c", code, "app", "--weights", "nothing"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=REPO, timeout=120)
    assert run.stdout.split() == ["2", "False"] and "There are no weights 'nothing'" in run.stderr


@pytest.mark.parametrize("ending", sorted(set(output.FORMATS) - {"npz"}))
def test_a_disk_that_fills_up_during_the_run(tiny_weights, tmp_path, capsys, monkeypatch, ending):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"out.{ending}"
    path.write_bytes(b"old")
    monkeypatch.setattr(output.os, "replace", full)
    monkeypatch.setattr("gap3d_app.render.turntable.turntable_frames", _two_frames)
    command = ["generate", "chair", "-o", str(path), "--weights", str(tiny_weights), "--preset", "fast", "--quiet"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"gap3d: The disk is full, so {str(path)!r} was not written; make room and run again.\n"
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def _two_frames(*_, **__):
    return iter([np.zeros((16, 16, 3), np.uint8)] * 2)


def test_bad_request_as_a_process_is_refused_before_torch(tmp_path):
    script = "import sys; from gap3d_app.cli import main; code = main(sys.argv[1:]); "
    script += "sys.exit(code + 100 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script, "generate", "chair", "-o", "gone/out.glb"], cwd=tmp_path,
                          env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_importing_the_package_is_cheap():
    script = "import sys, gap3d_app, gap3d_app.cli; "
    script += "print([m for m in ('torch', 'gradio', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
    script = "import sys; from gap3d_app import Gap3DPipeline; Gap3DPipeline.stages; "
    script += "print([m for m in ('gradio', 'transformers', 'scipy', 'trimesh') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_run_imports_nothing_that_slows_the_start(tiny_weights, tmp_path):
    script = "import sys; from gap3d_app.cli import main; main(sys.argv[1:]); "
    script += "names = ('torch._dynamo', 'transformers', 'trimesh', 'gradio', 'skimage', 'sympy'); "
    script += "print('slow:', [m for m in names if m in sys.modules]); "
    script += "import gc; print('collector:', gc.isenabled(), gc.get_freeze_count() > 100_000)"
    done = subprocess.run(
        [sys.executable, "-c", script, "generate", "chair", "-o", "out.glb", "--weights", str(tiny_weights),
         "--preset", "fast"], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=120,
    )
    assert "slow: []" in done.stdout, done.stdout + done.stderr
    assert "collector: True True" in done.stdout  # on again, and the imports' objects out of its way


def test_bench(tiny_weights, tmp_path):
    done = run("bench", "--weights", tiny_weights, "--preset", "fast", "--runs", "1", "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)
    names = ("cold_seconds", "warm_seconds", "cold_processor_seconds", "warm_processor_seconds")
    assert all(figures[name] > 0 for name in names) and figures["peak_mb"] > 100
    assert {"grid", "structure", "slat", "mesh", "write"} <= set(figures["stages_seconds"])


def test_interrupt(tiny_weights, tmp_path):
    process = subprocess.Popen(
        command("generate", "a chair", "-o", "out.glb", "--weights", tiny_weights, "--grid-steps", "100",
                "--slat-steps", "100", "--structure-steps", "100"),
        cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True,
        # A shell that started the tests in the background has told its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    deadline = time.monotonic() + 120
    while "grid" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130 and "stopped" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/proc/out.glb")
    monkeypatch.setattr(output.os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 5, 5, 9, 9, 9, 0, 255)))
    with pytest.raises(OutputError, match="0 MB left and 64 MB are needed"):
        check_output(tmp_path / "out.glb", output.NEEDED_BYTES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    def write(path: Path) -> None:
        path.write_bytes(b"begun")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"more")

    (tmp_path / "out.glb").write_bytes(b"old")
    with pytest.raises(OutputError, match="disk is full"):
        write_atomic(tmp_path / "out.glb", write)
    assert [path.name for path in tmp_path.iterdir()] == ["out.glb"]
    assert (tmp_path / "out.glb").read_bytes() == b"old"
