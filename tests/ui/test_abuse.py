"""What strangers may try: paths, addresses, the queue's back door."""

import gzip
from pathlib import Path

import httpx
import pytest

from gap3d_app.settings import Settings
from gap3d_app.ui import texts

HASHES = ["..", "../victim", "/etc", "%2E%2E", "../../results", "results"]


@pytest.fixture(scope="module")
def http(server):
    """A plain HTTP client."""
    with httpx.Client(base_url=f"{server.url}/gradio_api", timeout=30) as client:
        yield client


def body(image=None, **extra) -> dict:
    """A request to /generate."""
    values = ["a mug", image, "auto", "fast", 0, 0.0] + [None] * (len(Settings.specs()) - 1 - 3)
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
    meshes = list(server.work.results.glob("*/mesh.safetensors"))
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
