"""`python -m gap3d_app bench --full-size`: all stages in all modes, sums, exactness, and a table of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gap3d_app.errors import InputError
from gap3d_app.full_size import stages
from gap3d_app.full_size.measure import machine, matmul_rate
from gap3d_app.full_size.networks import COND_TOKENS, PROMPT_TOKENS
from gap3d_app.full_size.stages import FAST, OURS, REFERENCE, Results, best_mode
from gap3d_app.nn.attention_kernels import FIXED_LENGTHS, AttentionSize, kernel_times

VOXELS = (8048, 20216)
PARTS = ("grid", "structure", "slat", "decoders")
ATTENTION = {
    "grid, within": AttentionSize(2, 28, 1374, 1374, 64, torch.bfloat16),
    "grid, to the prompt": AttentionSize(1, 28, 1374, PROMPT_TOKENS, 64, torch.bfloat16),
    "structure, within": AttentionSize(2, 16, 4096, 4096, 64, torch.float16),
    "structure, to the grid": AttentionSize(1, 16, 4096, COND_TOKENS, 64, torch.float16),
    "slat, within": AttentionSize(2, 16, 4448, 4448, 64, torch.float16),
    "slat, to the grid": AttentionSize(1, 16, 4448, COND_TOKENS, 64, torch.float16),
}


def bench(
    runs: int = 3,
    parts: tuple[str, ...] = PARTS,
    voxels: tuple[int, ...] = VOXELS,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure everything on the current CUDA device.

    Args:
        runs: timed runs of a stage; the least counts.
        parts: some of `PARTS`.
        voxels: sizes of the structured latent.
        say: gets a line for every finished measurement.

    Returns:
        machine, matmul_tflops (bfloat16, before and behind the stages), attention_ms by sizes and kernel, stages
        (see `Measured.as_dict`), exactness and sums, ready for JSON.

    Raises:
        InputError: there is no CUDA device, or a part is unknown.
    """
    if not torch.cuda.is_available():
        raise InputError("Networks of full size are measured on a CUDA device, and there is none here.")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a part of the measurement; these are: {', '.join(PARTS)}.")
    device, results, sizes = torch.device("cuda", torch.cuda.current_device()), Results(say=say), list(voxels)
    rate = matmul_rate(device)
    attention = {name: kernel_times(size, device, (*FIXED_LENGTHS, "tiles")) for name, size in ATTENTION.items()}
    if "grid" in parts:
        stages.grid_stage(results, device, runs)
    if "structure" in parts:
        stages.structure_stages(results, device, runs)
    if "slat" in parts:
        stages.slat_stages(results, device, runs, sizes)
    if "decoders" in parts:
        stages.decoder_stages(results, device, runs, sizes)
    return {
        "machine": machine(),
        "matmul_tflops": [round(rate, 1), round(matmul_rate(device), 1)],
        "attention_ms": {name: {k: round(v, 3) for k, v in times.items()} for name, times in attention.items()},
        "stages": [row.as_dict(rate) for row in results.rows],
        "exactness": exactness(results),
        "sums": sums(results, max(sizes)),
    }


def exactness(results: Results) -> dict[str, Any]:
    """Relative L2 distance to the reference by sampler and mode, and the share of equal voxels."""
    found: dict[str, Any] = {}
    for (stage, mode), latent in results.latents.items():
        reference = results.latents.get((stage, REFERENCE))
        if mode != REFERENCE and reference is not None:
            distance = ((latent - reference).norm() / reference.norm()).item()
            found.setdefault(stage, {})[mode] = distance
    if results.equal_voxels is not None:
        found["equal_voxels"] = results.equal_voxels
    return found


def sums(results: Results, voxels: int) -> dict[str, Any]:
    """Milliseconds of the three samplers, and of all networks from grid to Gaussians and mesh, by mode."""
    samplers = ("grid", "structure", f"slat {voxels}")
    rest = ("structure decoder", f"gaussians {voxels}", f"mesh {voxels}")
    found: dict[str, Any] = {}
    for mode in (REFERENCE, OURS, FAST):
        of_samplers = [_ms(results, stage, mode) for stage in samplers]
        of_rest = [_ms(results, stage, REFERENCE if mode == REFERENCE else OURS) for stage in rest]
        if None not in of_samplers:
            found[mode] = {"samplers": round(sum(of_samplers), 1)}
            if None not in of_rest:
                found[mode]["all"] = round(sum(of_samplers) + sum(of_rest), 1)
    if REFERENCE in found and OURS in found:
        found["samplers_ratio"] = round(found[REFERENCE]["samplers"] / found[OURS]["samplers"], 2)
    return found


def _ms(results: Results, stage: str, mode: str) -> float | None:
    wanted = best_mode(results, stage) if mode == OURS else mode
    return next((row.ms for row in results.rows if (row.stage, row.mode) == (stage, wanted)), None)


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    machine_ = figures["machine"]
    lines = [
        f"{machine_['device']}, torch {machine_['torch']}, cudnn {machine_['cudnn']}; matmul bf16 "
        f"{' and '.join(map(str, figures['matmul_tflops']))} TFLOP/s before and behind",
        "",
        f"{'stage':18} {'mode':10} {'ms':>9} {'first':>9} {'TFLOP':>8} {'% rate':>7} {'peak GiB':>9} "
        f"{'own GiB':>8} {'released':>9}",
    ]
    for row in figures["stages"]:
        if row["error"]:
            lines.append(f"{row['stage']:18} {row['mode']:10} {row['error']}")
            continue
        released = "" if row["released_ms"] is None or row["mode"] != REFERENCE else f"{row['released_ms']:9.1f}"
        lines.append(
            f"{row['stage']:18} {row['mode']:10} {row['ms']:9.1f} {row['first_ms']:9.1f} {row['tflop']:8.2f} "
            f"{row['percent_of_rate'] or 0:7.1f} {row['peak_gib']:9.2f} {row['own_gib']:8.2f} {released:>9}"
        )
    lines.append("")
    for name, times in figures["attention_ms"].items():
        lines.append(f"attention {name:24} " + ", ".join(f"{kernel}: {ms:.3f} ms" for kernel, ms in times.items()))
    lines.append("")
    for stage, value in figures["exactness"].items():
        if isinstance(value, float):
            lines.append(f"exactness {stage:18} {value:.5f}")
            continue
        by_mode = ", ".join(f"{mode} {distance:.2e}" for mode, distance in value.items())
        lines.append(f"exactness {stage:18} relative L2 {by_mode}")
    lines += [f"sum {name:12} {value}" for name, value in figures["sums"].items()]
    return "\n".join(lines)
