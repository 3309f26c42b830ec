"""What strangers may try: paths, addresses, the queue's back door."""

import gzip
import json
import random
from pathlib import Path

import httpx
import pytest

from gap3d_app.settings import Settings
from gap3d_app.ui import texts
from tests.ui.serving import wait_until

HASHES = ["..", "../victim", "/etc", "%2E%2E", "../../results", "results"]


@pytest.fixture(scope="module")
def http(server):
    """A plain HTTP client."""
    with httpx.Client(base_url=f"{server.url}/gradio_api", timeout=30) as client:
        yield client


def body(image=None, **extra) -> dict:
    """A request to /generate."""
    values = ["a mug", image, "auto", "fast", 0, 0.0] + [None] * (len(Settings.specs()) - 1 - 3)
    values += [None, "stochastic", None, None, "glb"]
    return {"data": values, **extra}


def outcome(http, data: dict) -> str:
    """What comes back for a call: an error text, or the events."""
    reply = http.post("/call/generate", json=data)
    if reply.status_code != 200:
        return reply.text
    return http.get(f"/call/generate/{reply.json()['event_id']}").text


def tree(folder: Path) -> set[Path]:
    """Everything below a folder."""
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", ["generate", "page_generate", "page_cut_out_0", "page_turntable"])
def test_the_queue_cannot_be_skipped(http, server, name):
    reply = http.post(f"/run/{name}", json=body())
    assert reply.status_code in (404, 405) and server.pipeline.active == 0


def test_heavy_handlers_cannot_be_run_directly_by_number(http, server):
    before = server.pipeline.finished
    for listener in httpx.get(f"{server.url}/config").json()["dependencies"]:
        http.post("/run/predict", json=body(fn_index=listener["id"]))
    assert server.pipeline.finished == before and server.pipeline.active == 0


@pytest.mark.parametrize("session", HASHES)
def test_a_session_hash_is_never_a_path(http, server, session):
    victim = server.work.root.parent / "victim"
    marker = server.work.results / "keep"
    victim.mkdir(exist_ok=True)
    marker.mkdir(exist_ok=True)
    try:
        info = http.get("/info").json()
        assert "/generate" in info["named_endpoints"]
        config = httpx.get(f"{server.url}/config").json()
        index = next(d["id"] for d in config["dependencies"] if d["api_name"] == "generate")
        http.post("/queue/join", json=body(fn_index=index, session_hash=session))
        with http.stream("GET", "/queue/data", params={"session_hash": session}) as events:
            for line in events.iter_lines():
                if "process_completed" in line or "close_stream" in line:
                    break
        with http.stream("GET", f"/heartbeat/{session}"):
            pass
        http.post("/reset", json={"event_id": session})
        assert victim.is_dir() and marker.is_dir() and server.work.root.is_dir()
        assert not tree(victim) and not tree(marker)
        strange = [p.name for p in server.work.results.iterdir() if p != marker and server.work.result(p.name) is None]
        assert not strange
        assert {p.name for p in server.work.root.iterdir()} == {"uploads", "results"}
    finally:
        victim.rmdir()
        if marker.is_dir():
            marker.rmdir()


@pytest.mark.parametrize("path", ["http://example.com/a.png", "https://127.0.0.1:1/a.png"])
def test_nothing_is_fetched_for_a_client(http, path):
    for image in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": "a.png", "url": path}):
        text = outcome(http, body({**image, "meta": {"_type": "gradio.FileData"}}))
        assert "glTF" not in text and "event: complete" not in text
    text = outcome(http, body({"path": path, "meta": {"_type": "gradio.FileData"}}))
    assert texts.NO_FETCH in text


def test_an_address_in_another_field_is_not_fetched_either(http):
    data = body()
    data["data"][0] = {"path": "http://example.com/a.png", "meta": {"_type": "gradio.FileData"}}
    assert texts.NO_FETCH in outcome(http, data)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", __file__, "file:///etc/passwd"])
def test_only_uploaded_files_are_read(http, path):
    text = outcome(http, body({"path": path, "meta": {"_type": "gradio.FileData"}}))
    assert "event: complete" not in text and "root:" not in text


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "../../../etc/passwd", "http://127.0.0.1:1/x"])
def test_no_other_file_is_served(http, path):
    assert http.get(f"/file={path}").status_code in (403, 404)


def test_the_kept_mesh_is_not_served(http, server):
    outcome(http, body())
    meshes = list(server.work.results.glob("*/turned.safetensors"))
    assert meshes and all(http.get(f"/file={path}").status_code == 403 for path in meshes)


def test_answers_carry_security_headers(server):
    headers = httpx.get(server.url).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'self'")


def test_monitoring_is_off(server):
    assert httpx.get(f"{server.url}/monitoring").status_code in (403, 404, 405) or (
        "key" not in httpx.get(f"{server.url}/monitoring").text
    )


def test_uploads_are_swept_when_they_pass_the_quota(http, server):
    quota = server.work.quota_bytes
    server.work.quota_bytes = 300_000
    try:
        for number in range(8):
            content = bytes([number]) + gzip.compress(b"") + b"x" * 100_000
            reply = http.post("/upload", files={"files": (f"{number}.png", content, "image/png")})
            assert reply.status_code == 200
        server.work.sweep()
        assert sum(p.stat().st_size for p in tree(server.work.root) if p.is_file()) <= 300_000
    finally:
        server.work.quota_bytes = quota


def test_an_upload_name_cannot_leave_its_folder(http, server):
    reply = http.post("/upload", files={"files": ("../../evil.png", b"x", "image/png")})
    assert reply.status_code == 200
    assert all(Path(path).resolve().is_relative_to(server.work.uploads.resolve()) for path in reply.json())


def test_a_lone_surrogate_in_the_prompt_is_dropped(http):
    data = body()
    data["data"][0] = "a mug \ud800"
    reply = http.post("/call/generate", content=json.dumps(data).encode(), headers={"content-type": "application/json"})
    events = http.get(f"/call/generate/{reply.json()['event_id']}").text
    assert "event: complete" in events and '"a mug"' in events


def test_nobody_edits_the_page(http):
    for path in ("/vibe-edit/", "/vibe-code/", "/undo-vibe-edit/"):
        assert http.post(path, json={"prompt": "x", "code": "x", "hash": "x"}).status_code == 403


HUGE, PATHLESS = 1e400, {"path": None, "meta": {"_type": "gradio.FileData"}}
VALUES = [
    None, "", "a mug", 0, -1, HUGE, 2**70, True, [], {}, {"path": "/etc/passwd"}, PATHLESS, {**PATHLESS, "path": 3},
    {**PATHLESS, "path": ["a"]}, {**PATHLESS, "url": "file:///etc/passwd"}, "x" * 5000, "../../etc", "%2e%2e",
    [1] * 1000, {"__type__": "update"},
]
DOORS = [
    "/upload", "/call/generate", "/run/generate", "/run/predict", "/queue/join", "/file=%2Fetc%2Fpasswd", "/cancel",
    "/file=..%2F..", "/heartbeat/..%2F", "/reset", "/component_server", "/call/page_cut_out_0", "/call/page_show",
    "/call/page_turntable", "/call/page_ended", "/call/page_generate", "/proxy=http://127.0.0.1:1", "/deep_link",
]


def test_random_requests_harm_nothing(http, server):
    """Seeded: no answer shows a traceback or a file, nothing is written outside, and the next request works."""
    rng = random.Random(0)
    for _ in range(300):
        data = {
            "data": [rng.choice(VALUES) for _ in range(rng.choice([0, 1, 5, len(body()["data"])]))],
            "fn_index": rng.choice([None, 0, 1, 50, -1, "x"]), "session_hash": rng.choice([None, "..", "/etc", 3]),
            "event_id": rng.choice(["x", "..", None, {}]), "trigger_id": rng.choice([None, 1, "z"]),
        }
        kept = {key: value for key, value in data.items() if rng.random() < 0.85}
        content = rng.choice([json.dumps(kept).encode(), json.dumps(kept).encode(), b"{", b"[]", b"\xff"])
        kind = rng.choice(["application/json", "application/json", "multipart/form-data; boundary=x", "text/plain"])
        method = rng.choice(["GET", "POST", "POST", "PUT"])
        # The server leaves a connection whose body it could not decode, so none is used twice.
        headers = {"content-type": kind, "connection": "close"}
        reply = http.request(method, rng.choice(DOORS), content=content, headers=headers)
        assert "Traceback" not in reply.text and "root:" not in reply.text and "site-packages" not in reply.text
    assert {p.name for p in server.work.root.iterdir()} == {"uploads", "results"}
    wait_until(lambda: server.pipeline.active == 0)
    assert "event: complete" in outcome(http, body())
    assert server.pipeline.peak == 1
