"""All stages and modes with toy sizes, on the processor: the wiring, not the figures."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gap3d_app import cli
from gap3d_app.full_size import bench, networks, stages
from gap3d_app.full_size.measure import Measured
from gap3d_app.full_size.stages import COMPILED, FAST, OURS, PLAIN, REFERENCE, Results
from gap3d_app.nn import attention_kernels

CPU = torch.device("cpu")
FLOW = dict(model_channels=24, num_blocks=2, num_heads=2, cond_channels=16)
DECODER = dict(model_channels=32, num_blocks=2, num_heads=2, resolution=16)
SMALL: dict[str, dict[str, Any]] = {
    "grid": dict(input_size=3, in_channels=8, dim=32, n_layers=2, n_heads=2, n_kv_heads=2, ffn_dim=32,
                 latent_embedding_size=12),
    "structure": FLOW | dict(resolution=4),
    "structure_decoder": dict(channels=[16, 8]),
    "slat": FLOW | dict(resolution=16, io_block_channels=[16]),
    "gaussians": DECODER,
    "radiance": DECODER,
    "mesh": DECODER | dict(upsample_channels=[32, 32]),
}  # fmt: skip


def small_network(stage: str, device: torch.device) -> nn.Module:
    name, args = networks.read_config(networks.CONFIGS / networks.FILES[stage])
    model = networks.build_model(name, args | SMALL[stage]).eval().requires_grad_(False)
    networks.randomize(model)
    return model


def run_once(stage: str, mode: str, run: Callable[[], Any], tflop: float = 0.0, **rest: Any) -> tuple[Measured, Any]:
    assert tflop > 0
    return Measured(stage, mode, ms=1.0, first_ms=1.0, tflop=tflop, peak_gib=0.1, own_gib=0.1), run()


@pytest.fixture
def toys(monkeypatch, varlen_on_cpu) -> None:
    monkeypatch.setattr(stages, "random_network", small_network)
    monkeypatch.setattr(stages, "measure", run_once)
    monkeypatch.setattr(stages, "COND_TOKENS", 7)
    monkeypatch.setattr(stages, "shell", lambda count, device, resolution=16: networks.shell(count, device, 16))
    monkeypatch.setattr("gap3d_app.models.acceleration.compiled", lambda function, any_length=None: function)
    monkeypatch.setitem(attention_kernels.KERNELS, "flash", F.scaled_dot_product_attention)
    for table in ("SAMPLERS", "FAST_SAMPLERS"):
        fewer = {stage: replace(sampler, steps=3) for stage, sampler in getattr(stages, table).items()}
        monkeypatch.setattr(stages, table, fewer)


def test_every_mode_gives_the_reference_s_numbers(toys, monkeypatch) -> None:
    monkeypatch.setattr(stages, "dense_tables", lambda *given: None)  # of the whole lattice: a second test has them
    results = Results()
    stages.grid_stage(results, CPU, 1)
    stages.structure_stages(results, CPU, 1)
    stages.slat_stages(results, CPU, 1, [120, 200])
    stages.decoder_stages(results, CPU, 1, [120, 200])
    exactness = bench.exactness(results)
    assert exactness.pop("equal_voxels") == 1.0
    assert list(exactness) == ["grid", "structure", "slat 120", "slat 200"]
    for by_mode in exactness.values():
        assert by_mode == {mode: pytest.approx(0, abs=1e-5) for mode in (PLAIN, COMPILED, OURS)}
    modes = [row.mode for row in results.rows if row.stage == "slat 200"]
    assert modes == [REFERENCE, PLAIN, COMPILED, OURS, FAST]
    sums = bench.sums(results, 200)
    assert sums[OURS]["all"] == sums[REFERENCE]["all"] == sums[FAST]["all"] == 6.0
    figures = {
        "machine": {"device": "none", "torch": "t", "cudnn": "c"}, "matmul_tflops": [1.0, 1.0], "attention_ms": {},
        "stages": [row.as_dict(1.0) for row in results.rows], "exactness": bench.exactness(results), "sums": sums,
    }  # fmt: skip
    assert len(bench.table(json.loads(json.dumps(figures))).splitlines()) > len(results.rows)


def test_without_a_gpu_the_command_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--full-size"]) == 2
    assert "CUDA device" in capsys.readouterr().err
