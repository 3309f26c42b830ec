"""Every stage at full size, in every mode, with the results that the modes are compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.flow.graphs import GraphedFlow
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.full_size import flops
from gap3d_app.full_size.measure import Measured, measure
from gap3d_app.full_size.networks import (
    COND_TOKENS,
    FLOW_SAMPLER,
    PROMPT_TOKENS,
    random_latent,
    random_network,
    shell,
)  # fmt: skip
from gap3d_app.full_size.reference_grid import ReferenceGrid
from gap3d_app.full_size.reference_mesh import ReferenceMeshCells, dense_tables
from gap3d_app.full_size.reference_sparse import ReferenceSLatFlow
from gap3d_app.full_size.reference_structure import ReferenceStructureFlow
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.models.acceleration import accelerated, plain
from gap3d_app.models.grid_sampling import draw_grid_noise, grid_sampler
from gap3d_app.models.slat_vae import SparseTransformerBase
from gap3d_app.models.structure_vae import SparseStructureDecoder
from gap3d_app.nn.attention import MultiHeadAttention
from gap3d_app.nn.transformer import FeedForward
from gap3d_app.sources.assemble import GRID_SAMPLER, PRESET_SAMPLERS, PRESETS
from gap3d_app.sparse.resample import pooled_sites, subdivided_sites
from gap3d_app.sparse.tensor import Sites, SparseTensor

REFERENCE, PLAIN, COMPILED, OURS, FAST = "reference", "plain", "compiled", "ours", "fast"
"""Modes: as released; prepared, operation by operation; blocks compiled; recorded too; fewer, better steps."""

RELEASED_MS = {
    "grid": 2980.0, "structure": 880.0, "structure decoder": 6.4, "slat 8048": 2050.0, "slat 20216": 2540.0,
    "gaussians 20216": 17.0, "radiance 20216": 18.0, "mesh 8048": 54.0, "mesh 20216": 114.0,
}  # fmt: skip

_FLOW = FlowSampler(**FLOW_SAMPLER["args"], **FLOW_SAMPLER["params"])
SAMPLERS = {"grid": grid_sampler(**GRID_SAMPLER["params"]), "structure": _FLOW, "slat": _FLOW}
_STEPS, _ALTERED = PRESETS["fast"], PRESET_SAMPLERS["fast"]
FAST_SAMPLERS = {
    "grid": grid_sampler(**GRID_SAMPLER["params"] | {"steps": _STEPS["grid_steps"]}, **_ALTERED["grid_sampler"]),
    **{
        name: replace(SAMPLERS[name], steps=_STEPS[f"{name}_steps"], **_ALTERED[f"{name}_sampler"])
        for name in ("structure", "slat")
    },
}
"""Those of the preset `fast` of the public checkpoints."""


@dataclass
class Results:
    """What has been measured so far.

    Attributes:
        rows: one per stage and mode.
        latents: results of the samplers by stage and mode, for comparison.
        equal_voxels: share of the 64^3 voxels on which the two structures agree.
        say: gets a line for every finished measurement.
    """

    rows: list[Measured] = field(default_factory=list)
    latents: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    equal_voxels: float | None = None
    say: Callable[[str], None] = lambda line: None

    def add(self, stage: str, mode: str, run: Callable[[], Any], **given: Any) -> Any:
        """Measure a run and keep its figures; returns its result."""
        row, result = measure(stage, mode, run, released_ms=RELEASED_MS.get(stage), **given)
        self.rows.append(row)
        self.say(f"{stage}, {mode}: {row.error or f'{row.ms} ms, first {row.first_ms} ms'}")
        return result

    def keep(self, stage: str, mode: str, latent: Tensor | None) -> None:
        """Keep a sampler's result, if there is one."""
        if latent is not None:
            self.latents[stage, mode] = latent.float()


def random_condition(tokens: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Layer-normalised tokens [1, tokens, channels], the same on every device."""
    values = torch.randn(1, tokens, channels, generator=torch.Generator().manual_seed(1))
    return F.layer_norm(values, (channels,)).to(device, dtype)


def grid_stage(results: Results, device: torch.device, runs: int) -> None:
    """The grid transformer."""
    dit = random_network("grid", device)
    cond = random_condition(PROMPT_TOKENS, dit.config.latent_embedding_size, device, torch.bfloat16)
    noise = tuple(draw_grid_noise(dit.config, torch.Generator().manual_seed(0), device=device))
    count = flops.grid_evaluation(dit.config, PROMPT_TOKENS)

    def sampling(model: Any, sampler: FlowSampler) -> Callable[[], Tensor]:
        def run() -> Tensor:
            state = sampler.sample(model, noise, cond, torch.zeros_like(cond))
            return torch.cat([part.flatten() for part in state])

        return run

    _sampler_modes(results, "grid", dit, ReferenceGrid(dit), sampling, count, (1374, PROMPT_TOKENS), runs)


def structure_stages(results: Results, device: torch.device, runs: int) -> None:
    """The structure flow, its decoder, and the voxels that both modes' latents give."""
    flow = random_network("structure", device)
    config = flow.config
    cond = random_condition(COND_TOKENS, config.cond_channels, device, torch.float32)
    shape = (1, config.in_channels, *[config.resolution] * 3)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    count = flops.flow_evaluation(config, config.resolution**3, COND_TOKENS)

    def sampling(model: Any, sampler: FlowSampler) -> Callable[[], Tensor]:
        return lambda: sampler.sample(model, noise, cond, torch.zeros_like(cond))

    tokens = (config.resolution**3, COND_TOKENS)
    _sampler_modes(results, "structure", flow, ReferenceStructureFlow(flow), sampling, count, tokens, runs)
    decoder = random_network("structure_decoder", device)
    latent = results.latents.get(("structure", REFERENCE), noise)
    tflop = flops.structure_decoder(decoder.config, config.resolution) / 1e12
    logits = results.add(
        "structure decoder", REFERENCE, _no_grad(lambda: _plain_decoder(decoder, latent)), tflop=tflop, runs=runs
    )
    results.add("structure decoder", OURS, _no_grad(lambda: decoder(latent)), tflop=tflop, runs=runs)
    other = results.latents.get(("structure", best_mode(results, "structure")))
    if logits is not None and other is not None:
        with torch.no_grad():
            results.equal_voxels = ((logits > 0) == (_plain_decoder(decoder, other) > 0)).double().mean().item()


def _plain_decoder(decoder: SparseStructureDecoder, x: Tensor) -> Tensor:
    """`SparseStructureDecoder.forward` in the memory layout of the released code."""
    h = decoder.middle_block(decoder.input_layer(x).to(decoder.torso_dtype))
    for block in decoder.blocks:
        h = block(h)
    return decoder.out_layer(h.to(x.dtype))


def slat_stages(results: Results, device: torch.device, runs: int, voxels: list[int]) -> None:
    """The flow of the structured latent; every run is an asset of its own, whose maps are built anew."""
    flow = random_network("slat", device)
    cond = random_condition(COND_TOKENS, flow.config.cond_channels, device, torch.float32)
    for number in voxels:
        coords = shell(number, device, flow.config.resolution)
        noise, sites = random_latent(coords), Sites(coords)
        count = flops.slat_evaluation(flow.config, sites, COND_TOKENS)
        tokens = len(pooled_sites(sites)[0])

        def sampling(model: Any, sampler: FlowSampler, noise: SparseTensor = noise) -> Callable[[], Tensor]:
            def run() -> Tensor:
                asset = SparseTensor(noise.feats, noise.coords)
                return sampler.sample(model, asset, cond, torch.zeros_like(cond)).feats

            return run

        _sampler_modes(
            results, f"slat {number}", flow, ReferenceSLatFlow(flow), sampling, count, (tokens, COND_TOKENS), runs
        )


def _sampler_modes(
    results: Results,
    stage: str,
    flow: nn.Module,
    reference: Any,
    sampling: Callable[[Any, FlowSampler], Callable[[], Tensor]],
    count: flops.Evaluation,
    tokens: tuple[int, int],
    runs: int,
) -> None:
    """All modes of one sampler; `sampling(model, sampler)` gives what runs it."""
    exact, fast = (samplers[stage.split()[0]] for samplers in (SAMPLERS, FAST_SAMPLERS))
    plain(flow)  # another number of voxels may have come before
    warm = sampling(reference, FlowSampler(**{**vars(exact), "steps": 2}))
    run, tflop = sampling(reference, exact), count.run(exact, False) / 1e12
    results.keep(stage, REFERENCE, results.add(stage, REFERENCE, run, tflop=tflop, runs=runs, warm=warm))
    tflop = count.run(exact, True) / 1e12
    results.keep(stage, PLAIN, results.add(stage, PLAIN, sampling(flow, exact), tflop=tflop, runs=1))
    accelerated(flow, *tokens, graphs=False)
    results.keep(stage, COMPILED, results.add(stage, COMPILED, sampling(flow, exact), tflop=tflop, runs=runs))
    if results.rows[-1].error:
        plain(flow)  # recorded without compilation, then
    graphed = GraphedFlow(flow)
    results.keep(stage, OURS, results.add(stage, OURS, sampling(graphed, exact), tflop=tflop, runs=runs))
    results.add(stage, FAST, sampling(graphed, fast), tflop=count.run(fast, True) / 1e12, runs=runs)


def as_released(network: nn.Module, released: bool) -> None:
    """Let layers do what the released code does, or stop it: FlashAttention-2, GELU by itself, rows in their order."""
    for layer in network.modules():
        if isinstance(layer, SparseTransformerBase):
            layer.ordered = not released
        if isinstance(layer, MultiHeadAttention) and released:
            layer.kernel = "flash"
        if isinstance(layer, FeedForward):
            layer.fused = not released


def decoder_stages(results: Results, device: torch.device, runs: int, voxels: list[int]) -> None:
    """Gaussians and radiance field at the largest number of voxels, the mesh at all."""
    for name in ("gaussians", "radiance"):
        decoder = random_network(name, device)
        _latent_decoder(results, f"{name} {max(voxels)}", decoder, shell(max(voxels), device), runs)
        del decoder
    decoder = random_network("mesh", device)
    for number in voxels:
        _mesh_decoder(results, f"mesh {number}", decoder, shell(number, device), runs)


def _latent_decoder(results: Results, stage: str, decoder: nn.Module, coords: Tensor, runs: int) -> None:
    latent = random_latent(coords)
    tflop = flops.decoder_trunk(decoder.config, latent.sites, decoder.out_layer.out_features) / 1e12

    def run() -> Any:
        return decoder.to_representation(decoder(SparseTensor(latent.feats, coords)))

    for mode in (REFERENCE, OURS):
        as_released(decoder, mode == REFERENCE)
        results.add(stage, mode, _no_grad(run), tflop=tflop, runs=runs)


def _mesh_decoder(results: Results, stage: str, decoder: nn.Module, coords: Tensor, runs: int) -> None:
    latent = random_latent(coords)
    resolution = decoder.out_resolution
    counted = Sites(coords)  # of its own, so that its maps do not stay in memory
    middle = subdivided_sites(counted)
    pairs = [flops.neighbour_pairs(sites) for sites in (middle, subdivided_sites(middle))]
    widths = [decoder.config.model_channels, *(block.out_layers[0].out_channels for block in decoder.upsample)]
    rows = [len(coords) * 8, len(coords) * 64]
    trunk = flops.decoder_trunk(decoder.config, counted, 0)
    trunk += 2 * rows[1] * widths[-1] * decoder.out_channels
    del counted, middle

    released = ReferenceMeshCells(decoder)

    def reference() -> Any:
        cells = released(SparseTensor(latent.feats, coords))
        tables = dense_tables(cells.coords[:, 1:], cells.feats, resolution)
        return extract(cells.coords[:, 1:], cells.feats, resolution), tables

    def ours() -> Any:
        cells = decoder(SparseTensor(latent.feats, coords))
        return extract(cells.coords[:, 1:], cells.feats, resolution, bounds=cells.sites.bounds)

    for mode, run in ((REFERENCE, reference), (OURS, ours)):
        as_released(decoder, mode == REFERENCE)
        folded = flops.mesh_upsampling(widths, pairs, rows, mode == OURS)
        results.add(stage, mode, _no_grad(run), tflop=(trunk + folded) / 1e12, runs=runs)


def best_mode(results: Results, stage: str) -> str:
    """The fastest of the exact ways of ours that ran; the reference's if none did.

    Recording pays for itself over the steps of a run only where there is enough to save: which of the two ways is
    faster for a stage is a matter of measurement.
    """
    ran = [r for r in results.rows if r.stage == stage and r.ms and r.mode in (OURS, COMPILED, PLAIN)]
    return min(ran, key=lambda row: row.ms).mode if ran else REFERENCE


def _no_grad(run: Callable[[], Any]) -> Callable[[], Any]:
    return torch.no_grad()(run)
