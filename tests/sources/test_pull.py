"""Downloads from a hub on this machine: pinned, resumed, checked, refused with one sentence."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest

from gap3d_app.errors import InputError, WeightsError
from gap3d_app.sources import catalog, commands, pull, store
from tests.sources.fake_hub import FakeHub, etag

REPO = Path(__file__).resolve().parents[2]
LARGE = bytes(range(256)) * 4000
PINNED = "a" * 40
FILES = {"made/up/config.json": b'{"model_type": "clip"}', "made/up/ckpts/model.safetensors": LARGE}


def source() -> catalog.Source:
    names = tuple(key.removeprefix("made/up/") for key in FILES)
    return catalog.Source("up", "made/up", PINNED, names, len(LARGE), "MIT", "tests")


@pytest.fixture
def hub():
    server = FakeHub(dict(FILES))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read when it was imported
    monkeypatch.setattr(catalog, "SOURCES", (source(), *catalog.SOURCES))
    monkeypatch.setattr(pull, "SPARE_BYTES", 0)
    return tmp_path / "cache"


def fetch(hub: FakeHub, entry: catalog.Source | None = None) -> tuple[Path, list[str]]:
    said: list[str] = []
    return pull.pull(entry or source(), said.append, progress=False, endpoint=hub.address), said


def test_files_arrive_and_are_not_asked_for_again(hub, cache):
    folder, said = fetch(hub)
    assert folder == cache / "models--made--up" / "snapshots" / PINNED == store.find("made/up")
    assert (folder / "ckpts" / "model.safetensors").read_bytes() == LARGE
    assert store.recorded_checksum(folder / "config.json") == etag(FILES["made/up/config.json"], "config.json")
    assert said == ["up 1/2: config.json, 0 kB", "up 2/2: ckpts/model.safetensors, 1 MB"]
    before = len(hub.requests)
    assert fetch(hub)[1] == ["up: already here"] and len(hub.requests) == before
    assert commands.verify(source()) == 2
    assert {path.name for path in (cache / "models--made--up" / "blobs").iterdir()} == {
        etag(content, name) for name, content in FILES.items()
    }


def test_a_lost_connection_is_taken_up(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 65536)
    hub.break_after["made/up/ckpts/model.safetensors"] = 300_000
    folder, _ = fetch(hub)
    assert (folder / "ckpts" / "model.safetensors").read_bytes() == LARGE
    first, second = hub.gets("model.safetensors")
    assert first is None and 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 300_000


def test_an_interrupted_download_goes_on_where_it_stopped(hub, cache):
    """What an earlier process left is kept: only the rest is asked for."""
    partial = cache / "models--made--up" / "blobs" / (etag(LARGE, "x.safetensors") + ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(LARGE[:400_000])
    folder, said = fetch(hub)
    assert (folder / "ckpts" / "model.safetensors").read_bytes() == LARGE
    assert hub.gets("model.safetensors") == ["bytes=400000-"]
    assert said[-1].endswith("(resumed at 400 kB)")


def test_a_killed_download_leaves_what_it_has(hub, cache, monkeypatch):
    from huggingface_hub import file_download

    real = file_download.http_get

    def killed(url, target, **options):
        real(url, target, **options)
        if options["displayed_filename"].endswith("safetensors"):
            target.truncate(500_000)
            raise KeyboardInterrupt

    monkeypatch.setattr(file_download, "http_get", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(hub)
    monkeypatch.setattr(file_download, "http_get", real)
    fetch(hub)
    assert hub.gets("model.safetensors") == [None, "bytes=500000-"]
    assert commands.verify(source()) == 2


@pytest.mark.parametrize("name", ["config.json", "ckpts/model.safetensors"])
def test_a_wrong_checksum_is_named_and_nothing_stays(hub, cache, name):
    hub.lie.add("made/up/" + name)
    good = etag(FILES["made/up/" + name], name)
    with pytest.raises(WeightsError, match=f"'{name}' of 'made/up' is damaged: expected .* {good}, found "):
        fetch(hub)
    assert not list(cache.rglob("*.partial")) and store.missing_files(source())
    hub.lie.clear()
    fetch(hub)
    assert commands.verify(source()) == 2


def test_extra_files_are_fetched_but_not_needed(hub):
    entry = dataclasses.replace(source(), files=("config.json",), extra=("ckpts/model.safetensors",))
    folder, _ = fetch(hub, entry)
    assert commands.verify(entry) == 2
    (folder / "ckpts" / "model.safetensors").unlink()
    assert store.missing_files(entry) == [] and commands.verify(entry) == 1
    assert fetch(hub, entry)[1][-1] == "up 2/2: ckpts/model.safetensors, 1 MB (was here)"


def test_no_room(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: usage(1, 1, 500_000))
    with pytest.raises(WeightsError, match="need 1 MB more on the disk and 0 kB to spare, but 500 kB are free"):
        fetch(hub)
    assert not hub.gets("")


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline(hub, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(WeightsError, match="the network is off"):
        fetch(hub)
    assert not hub.requests


def test_what_the_hub_lacks(hub):
    del hub.files["made/up/config.json"]
    with pytest.raises(WeightsError, match="The download of 'up' stopped"):
        fetch(hub)


def test_verify_names_what_was_changed(hub):
    folder, _ = fetch(hub)
    path = (folder / "ckpts" / "model.safetensors").resolve()
    path.write_bytes(LARGE[:-1] + b"x")
    found = store.checksum(path, path.name)
    with pytest.raises(WeightsError, match=f"'ckpts/model.safetensors' .* expected {path.name}, found {found}"):
        commands.verify(source())
    path.unlink()
    with pytest.raises(WeightsError, match="lack 'ckpts/model.safetensors'.*weights pull up"):
        commands.verify(source())


def test_needs_come_along():
    names = [entry.name for entry in commands.with_needs(["trellis-text-base"])]
    assert names == ["trellis-text-base", "trellis-image-large", "clip", "dinov2"]
    with pytest.raises(InputError, match="no public weights 'nothing'; known are up, trellis-image-large"):
        commands.with_needs(["nothing"])


def test_catalog():
    for entry in catalog.SOURCES:
        assert re.fullmatch("[0-9a-f]{40}", entry.revision)
        assert all(catalog.source(need) for need in entry.needs) and len(set(entry.files)) == len(entry.files)
    assert "no commercial use" in catalog.source("qwen").licence
    assert catalog.by_repo("JeffreyXiang/TRELLIS-image-large").name == "trellis-image-large"


def command(hub: FakeHub | None, cache: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"HF_HUB_CACHE": str(cache)}
    env["HF_ENDPOINT"] = hub.address if hub else "http://127.0.0.1:9"
    env["HF_HUB_DOWNLOAD_TIMEOUT"] = "60"  # a machine that is held up for a while is no broken connection
    words = [sys.executable, "-m", "gap3d_app", "weights", *arguments]
    return subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True, timeout=120)


def _begun(folder: Path) -> int:
    """Bytes of files that are not complete."""
    sizes = 0
    for path in folder.rglob("*.partial"):
        with suppress(FileNotFoundError):  # complete by now
            sizes += path.stat().st_size
    return sizes


def test_a_process_that_is_killed(tmp_path):
    """Nothing is cleaned up then; the next process asks for the rest only."""
    large, name = bytes(24_000_000), "openai/clip-vit-large-patch14/model.safetensors"
    hub = FakeHub({name: large, name.replace("model.safetensors", "config.json"): b"{}",
                   name.replace("model.safetensors", "tokenizer.json"): b"{}"})  # fmt: skip
    hub.stall_after[name] = 22_000_000
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    env |= {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": hub.address}
    words = [sys.executable, "-m", "gap3d_app", "weights", "pull", "clip", "--quiet"]
    try:
        first = subprocess.Popen(words, cwd=REPO, env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while _begun(tmp_path) < 1_000_000 and time.monotonic() < deadline:  # small files have parts for a moment
            time.sleep(0.05)
        first.kill()
        first.wait()
        kept = _begun(tmp_path)
        assert 0 < kept <= 22_000_000
        done = command(hub, tmp_path, "pull", "clip", "--quiet")
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert hub.gets("model.safetensors") == [None, f"bytes={kept}-"]
    finally:
        hub.close()
    assert command(None, tmp_path, "verify", "clip").returncode == 0


def test_command_line(tmp_path):
    """The real catalog's CLIP from the hub on this machine."""
    content = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": LARGE}
    hub = FakeHub({"openai/clip-vit-large-patch14/" + name: data for name, data in content.items()})
    try:
        off = command(hub, tmp_path, "pull", "clip", "--offline")
        assert off.returncode == 2 and off.stderr.count("\n") == 1 and "the network is off" in off.stderr
        done = command(hub, tmp_path, "pull", "clip")
        assert done.returncode == 0, done.stderr
        assert "clip 3/3: model.safetensors, 1 MB" in done.stdout
    finally:
        hub.close()
    rows = json.loads(command(None, tmp_path, "list", "--json").stdout)
    here = {row["name"]: row["here"] for row in rows}
    assert here["clip"] and not here["qwen"]
    recorded = {row["name"]: row["files"] for row in rows}
    assert recorded["clip"]["model.safetensors"] == etag(LARGE, "model.safetensors") and recorded["qwen"] == {}
    text = command(None, tmp_path, "list").stdout
    assert "7.52 GB" in text and "Qwen Research License: research only" in text
    done = command(None, tmp_path, "verify", "clip")
    assert done.returncode == 0 and "clip: 3 files" in done.stdout
    wrong = command(None, tmp_path, "pull", "everything")
    assert wrong.returncode == 2 and wrong.stderr.startswith("gap3d: There are no public weights 'everything'")
