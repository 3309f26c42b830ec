"""A page whose weights are damaged: it is up, says what is wrong, and works once they are repaired."""

import hashlib
import shutil

import httpx
import pytest
from gradio_client import Client

from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.sources.offers import offer
from gap3d_app.ui.page import build_page
from gap3d_app.ui.server import launch_page
from gap3d_app.ui.workdir import WorkDir


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damage_is_named_and_repair_works_without_a_restart(tiny_weights, tmp_path, damage):
    path = shutil.copytree(tiny_weights, tmp_path / "weights") / "slat_flow.safetensors"
    content = path.read_bytes()
    found = {"truncated": content[:-9], "changed": content[:-1] + bytes([content[-1] ^ 1])}.get(damage)
    path.unlink() if found is None else path.write_bytes(found)
    work = WorkDir()
    page = build_page([offer(path.parent)], lambda one: Gap3DPipeline.from_pretrained(one.names, "cpu").preload(), work)
    try:
        url = launch_page(page, block=False)
        assert httpx.get(url).status_code == 200
        client = Client(url, download_files=tmp_path, verbose=False, analytics_enabled=False)
        with pytest.raises(Exception) as caught:
            client.predict(prompt="a mug", preset="fast", api_name="/generate")
        message = str(caught.value)
        assert "'slat_flow.safetensors'" in message and "get the folder again" in message
        for data in filter(None, (content, found)):
            assert hashlib.sha256(data).hexdigest() in message
        assert str(tmp_path) not in message and "\n" not in message
        path.write_bytes(content)
        assert client.predict(prompt="a mug", preset="fast", api_name="/generate")[1]["prompt"] == "a mug"
    finally:
        page.close(verbose=False)
        work.close()
