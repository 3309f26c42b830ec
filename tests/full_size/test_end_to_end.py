"""Text to GLB of the full-size measurement with toy sizes, on the processor: the wiring, not the figures."""

import json
from dataclasses import asdict

import pytest
import torch

from gap3d_app import cli, fast_flows
from gap3d_app import pipeline as pipelines
from gap3d_app.errors import WeightsError
from gap3d_app.full_size import bench, end_to_end
from gap3d_app.geometry.topology import is_watertight
from gap3d_app.models import acceleration
from gap3d_app.modes import LOW_VRAM, RESIDENT
from tests.full_size.test_stages import SMALL

CPU = torch.device("cpu")
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
TEXT = dict(vocab_size=100, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, mrope_section=[1, 1, 1])
TOYS = {
    "prompt_encoder": dict(text_config=TEXT, n_query=4, pad_token_id=0, image_token_id=97, img_start_token_id=98,
                           query_token_id=99, vision_config=dict(depth=1, hidden_size=32, intermediate_size=32,
                                                                 num_heads=2, out_hidden_size=12)),
    "grid_dit": SMALL["grid"] | dict(in_channels=16), "structure_flow": SMALL["structure"],
    "structure_decoder": dict(channels=[16, 8, 8]), "slat_flow": SMALL["slat"], "slat_decoder_gs": SMALL["gaussians"],
    "slat_decoder_rf": SMALL["radiance"], "slat_decoder_mesh": SMALL["mesh"],
    "image_encoder": dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
}  # fmt: skip


@pytest.fixture
def toys(monkeypatch):
    whole = end_to_end.config_of

    def small(role):
        name, args = whole(role)
        return name, args | TOYS[role]

    monkeypatch.setattr(end_to_end, "config_of", small)
    monkeypatch.setattr(end_to_end, "PRESETS", {
        name: dict(grid_steps=2, structure_steps=2, slat_steps=2) for name in ("fast", "standard")
    })  # fmt: skip
    monkeypatch.setattr(fast_flows, "recorded_on", lambda device: True)
    monkeypatch.setattr(fast_flows, "WORTH_COMPILING", 0)
    monkeypatch.setattr(acceleration, "compiled", lambda advance, any_length=None: advance)


def test_the_supplied_shape_comes_out(toys):
    pipeline = end_to_end.random_pipeline(CPU, 150, torch.float32)
    asset = pipeline("anything", formats=["glb"])
    assert len(asset.occupancy) == 150 and asset.occupancy.resolution == 16
    assert is_watertight(asset.mesh.faces.numpy())
    radius = asset.mesh.vertices.norm(dim=1)
    wanted = (150 / (8 * torch.pi)) ** 0.5 / 16
    assert abs(radius.mean() - wanted) < 0.01 and radius.std() < 0.03
    assert len(pipeline("anything", formats=["glb"]).occupancy) == 149
    assert set(pipeline.sizes()) == set(end_to_end.ROLES)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_every_way_is_measured(toys, device):
    said = []
    rows = end_to_end.measure_end_to_end(torch.device(device), 1, 150, said.append)
    assert [row.error for row in rows] == [None] * len(rows) and len(said) == len(rows)
    found = [(row.preset, row.memory, row.way.split(",")[0]) for row in rows]
    assert found == [
        ("standard", RESIDENT, "recorded"), ("fast", RESIDENT, "compiled and recorded"),
        ("standard", RESIDENT, "compiled and recorded"), ("standard", RESIDENT, "all networks there"),
        ("standard", RESIDENT, "on a card of 16 GiB"), ("fast", LOW_VRAM, "on a card of 6 GiB"),
        ("standard", LOW_VRAM, "on a card of 6 GiB"),
    ]  # fmt: skip
    assert all(row.seconds > 0 and row.faces and set(row.stages) >= {"grid", "files"} for row in rows)
    assert rows[3].networks_gib >= rows[4].networks_gib
    plain = json.loads(json.dumps([asdict(row) for row in rows]))
    lines = end_to_end.table(plain, 150).splitlines()
    assert len(lines) == 4 + 2 * len(rows) and "150, a shell" in lines[1]


def test_what_fails_is_reported(toys, monkeypatch):
    def broken(*_, **__):
        raise WeightsError("none\nat all")

    monkeypatch.setattr(pipelines.Gap3DPipeline, "stages", broken)
    rows = end_to_end.measure_end_to_end(CPU, 1, 150)
    assert {row.error for row in rows} == {"WeightsError: none"} and end_to_end.table(end_to_end.as_dicts(rows))


def test_the_command(toys, monkeypatch, capsys):
    rows = [end_to_end.EndToEnd("fast", RESIDENT, "somehow", 1.0, 2.0, {"grid": 0.5})]
    figures = {"machine": {"device": "d", "torch": "t", "cudnn": "c"}, "matmul_tflops": [1.0], "attention_ms": {},
               "stages": [], "exactness": {}, "sums": {}}
    given = []
    monkeypatch.setattr(bench, "bench", lambda runs, parts, say: given.append(parts) or dict(figures))
    monkeypatch.setattr(end_to_end, "measure_end_to_end", lambda device, runs, say: rows)
    assert cli.main(["bench", "--full-size", "text-to-glb"]) == 0 and given == [()]
    assert "somehow" in capsys.readouterr().out
    assert cli.main(["bench", "--full-size", "grid", "--json"]) == 0 and given[-1] == ("grid",)
    assert "text_to_glb" not in json.loads(capsys.readouterr().out)
    assert cli.main(["bench", "--full-size", "--json"]) == 0 and given[-1] == bench.PARTS
    assert json.loads(capsys.readouterr().out)["text_to_glb"][0]["seconds"] == 1.0
