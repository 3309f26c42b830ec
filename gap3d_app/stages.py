"""The stages of a run, each for one run or for many at once.

A stage is a generator of (finished steps, all steps) that reads what it needs from the runs and adds its own. What
goes wrong with one run alone is kept in its `failure`, so that the others go on. Row i of a batch gets the noise
that it would get alone. Sources: gap3d.md sections 1, 5 and 6; trellis.md section 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.errors import GenerationError, InputError, WeightsError
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.prompt import Prompt, preprocess_image
from gap3d_app.samplers import flow_sampler, sampler_params
from gap3d_app.settings import Settings
from gap3d_app.values import Gaussians, Mesh, Occupancy, RadianceField, SLat, TokenGrid
from gap3d_app.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

STRUCTURE_TRIES = 3
"""Seeds that are tried before an empty structure is reported."""

DECODERS = {"gaussians": "slat_decoder_gs", "radiance": "slat_decoder_rf"}
"""Roles of what can be decoded beside the surface."""

_NAMES = {"gaussians": "Gaussians", "radiance": "radiance field"}

Steps = Iterator[tuple[int, int]]


class Networks(Protocol):
    """What the stages need of a pipeline: networks by their roles, and the "args" of pipeline.json."""

    args: dict[str, Any]
    device: torch.device

    def part(self, name: str) -> Any: ...


@dataclass
class Run:
    """What one run has made so far.

    Attributes:
        prompt, settings: what was asked for.
        pictures: what the encoders see of the prompt's pictures.
        condition: [n, L, D] of the prompt encoder, a row per picture (one row without); None without words.
        kept: the same for words that change nothing, where edits are guided (`EditGuidance`); None without a picture.
        grid: [n, N, C] tokens that the flows follow, a row per picture; or TRELLIS's text encoder's (no grid then).
        null: [1, N, C] tokens of the flows' unconditional prediction; None for zeros.
        route: "" for the flows that follow pictures, "text_" for those of TRELLIS's text models.
        structure_seed: seed that the structure came from; None for a given shape.
        surface: cells and features of the mesh decoder, until the mesh is made of them.
        warnings: sentences for the person.
        failure: why this run ended early.
        seconds: wall time per stage.
    """

    prompt: Prompt
    settings: Settings
    pictures: list[Image] = field(default_factory=list)
    condition: Tensor | None = None
    kept: Tensor | None = None
    grid: TokenGrid | None = None
    null: Tensor | None = None
    route: str = ""
    occupancy: Occupancy | None = None
    structure_seed: int | None = None
    slat: SLat | None = None
    gaussians: Gaussians | None = None
    radiance: RadianceField | None = None
    surface: Any = None
    mesh: Mesh | None = None
    warnings: list[str] = field(default_factory=list)
    failure: GenerationError | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def _wanted(settings: Settings) -> list[str]:
    """What is decoded beside the surface."""
    kinds = {"gaussians": "ply", "radiance": "npz"}
    return [kind for kind, file in kinds.items() if file in settings.formats or settings.turntable == kind]


def route_of(args: dict[str, Any], prompt: Prompt) -> str:
    """Which flows a prompt takes with these weights: see `Run.route`.

    Raises:
        InputError: words and a picture, for weights that can follow either alone.
    """
    has = args["models"].keys()
    if not prompt.text or "prompt_encoder" in has or not {"text_encoder", "text_slat_flow"} & has:
        return ""
    if prompt.pictures:
        raise InputError("These weights follow words or a picture, not both; give one of them.")
    return "text_"


@torch.no_grad()
def prompt_stage(networks: Networks, runs: list[Run]) -> Steps:
    """Pictures as the encoders see them, and the prompt encoder's latents of prompts with words."""
    from gap3d_app.models.edit_guidance import EditGuidance

    for run in runs:
        run.route = route_of(networks.args, run.prompt)
        for kind in _wanted(run.settings):
            if DECODERS[kind] not in networks.args["models"]:
                networks.part(DECODERS[kind])  # says at once, not after the samplers, that there is none
        if run.prompt.pictures:  # as TRELLIS crops the object: centred, on black, at the encoder's size
            size = networks.part("image_encoder").config.image_size
            run.pictures = [preprocess_image(cut.rgba, size) for cut in run.prompt.pictures]
    plain = [run for run in runs if run.route]
    if plain:  # trellis.md section 1.3: the states themselves, and those of the empty text against them
        states = networks.part("text_encoder")([*(run.prompt.text for run in plain), ""]).float()
        for i, run in enumerate(plain):
            run.grid, run.null = TokenGrid(states[i : i + 1]), states[-1:]
    worded = [run for run in runs if run.prompt.text and not run.route]
    reads = [run for run in worded if not (run.pictures and run.settings.blend == 1.0)]
    if vocabulary := Vocabulary.of(networks.args):
        for run in reads:
            warning = vocabulary.warning(run.prompt.text)
            if warning and warning not in run.warnings:  # the stage begins again where memory ran out
                run.warnings.append(warning)
    for group in _grouped(reads, lambda run: bool(run.pictures)):
        # A public prompt encoder reads the whole picture (gap3d.md 5.4), a small one what its image encoder sees.
        whole = networks.args.get("whole_pictures", False)
        read = [[cut.whole for cut in run.prompt.pictures] if whole else run.pictures for run in group]
        pictures = [picture for some in read for picture in some]
        counts = [max(1, len(run.pictures)) for run in group]
        texts = [run.prompt.text for run, count in zip(group, counts, strict=True) for _ in range(count)]
        for run, rows in zip(group, _latents(networks, texts, pictures, counts), strict=True):
            run.condition = rows
        if pictures and (guidance := EditGuidance.of(networks.args)):
            words = [guidance.words] * len(pictures)
            for run, rows in zip(group, _latents(networks, words, pictures, counts), strict=True):
                run.kept = rows
    yield 1, 1


def _latents(networks: Networks, texts: list[str], pictures: list[Image], counts: list[int]) -> tuple[Tensor, ...]:
    """The prompt encoder's latents of texts, beside a picture each or alone, in parts of `counts` rows."""
    # A clone, because tensors made in inference mode cannot take part in further work.
    return networks.part("prompt_encoder")(texts, pictures or None).clone().float().split(counts)


@torch.no_grad()
def grid_stage(networks: Networks, runs: list[Run]) -> Steps:
    """The token grids: of the words, of the pictures, or between the two."""
    from gap3d_app.models.edit_guidance import EditGuidance, EditGuided
    from gap3d_app.models.grid_sampling import draw_grid_noise, grid_sampler, sample_grid
    from gap3d_app.models.token_grid import pack_grid

    for run in runs:
        if run.pictures:
            run.grid = encode_pictures(networks, run.pictures)
    worded, count = [run for run in runs if run.condition is not None], 1
    if worded:
        dit, settings = networks.part("grid_dit"), worded[0].settings
        params = sampler_params(networks.args, "grid_sampler", settings.preset, "steps", "guidance_scale")
        sampler = grid_sampler(settings.grid_steps, settings.grid_guidance, **params)
        # The grids of one run's pictures start from the same noise: they should differ by the pictures alone.
        generators = [stage_generator(run.settings.seed, "grid") for run in worded for _ in run.condition]
        noise = draw_grid_noise(dit.config, generators, device=networks.device)
        side, count = dit.config.input_size, sampler.steps
        if any(run.kept is not None for run in worded):
            kept = torch.cat([run.condition if run.kept is None else run.kept for run in worded])
            dit = EditGuided(dit, kept, EditGuidance.of(networks.args))
        for event in sample_grid(dit, torch.cat([run.condition for run in worded]), noise, sampler):
            if event.step < count:
                yield event.step, count
        rows = pack_grid(*event.state).split([len(run.condition) for run in worded])
        for run, tokens in zip(worded, rows, strict=True):
            of_words = TokenGrid(tokens, side, side)
            blend = run.grid is not None and run.settings.blend > 0
            run.grid = blend_grids(of_words, run.grid, run.settings.blend) if blend else of_words
            _check_finite(run, run.grid.tokens, "token grid")
    yield count, count


@torch.no_grad()
def structure_stage(networks: Networks, runs: list[Run]) -> Steps:
    """The occupied voxels: sampled, empty ones again with the next seeds; or those of the mesh that was given."""
    from gap3d_app.geometry.voxels import voxelize

    for run in runs:
        if run.prompt.mesh is not None:
            resolution = networks.part(run.route + "slat_flow").config.resolution
            coords = F.pad(voxelize(run.prompt.mesh, resolution), (1, 0))
            run.occupancy = Occupancy(coords.to(networks.device), resolution)
    sampled = [run for run in runs if run.occupancy is None]
    count = sampled[0].settings.structure_steps if sampled else 1
    for group in _batches(sampled):
        yield from _sample_structures(networks, group)
    yield count, count


def _sample_structures(networks: Networks, runs: list[Run]) -> Steps:
    from gap3d_app.models.structure_flow import occupied_coords

    flow, decoder = networks.part(runs[0].route + "structure_flow"), networks.part("structure_decoder")
    _check_fit(runs[0], flow, "structure_flow")
    sampler, (cond, null) = _flow_sampler(networks, "structure", runs[0]), _followed(runs)
    shape = (1, flow.config.in_channels, *[flow.config.resolution] * 3)
    # 0 as published; below it for a small flow, which is unsure of single voxels and would leave pits.
    threshold = networks.args.get("occupancy_threshold", 0.0)
    for attempt in range(STRUCTURE_TRIES):
        rows = [i for i, run in enumerate(runs) if run.occupancy is None and run.failure is None]
        if not rows:
            return
        for i in rows:
            runs[i].structure_seed = runs[i].settings.seed + attempt
        noise = [torch.randn(shape, generator=stage_generator(runs[i].structure_seed, "structure")) for i in rows]
        followed = cond if len(runs) == 1 else cond[rows]
        state = torch.cat(noise).to(networks.device)
        for event in sampler.run(flow, state, followed, null):
            if event.step < sampler.steps:
                yield event.step, sampler.steps
        for i, logits in zip(rows, decoder(event.state), strict=True):
            coords = occupied_coords(logits[None], threshold)
            if _check_finite(runs[i], logits, "structure") and len(coords):
                runs[i].occupancy = Occupancy(coords, logits.shape[-1])
    for run in runs:
        if run.occupancy is None and run.failure is None:
            run.failure = GenerationError(
                f"The structure came out empty for {STRUCTURE_TRIES} seeds, {run.settings.seed} and the next; try "
                "another seed or other words."
            )


@torch.no_grad()
def slat_stage(networks: Networks, runs: list[Run]) -> Steps:
    """The structured latents on the occupied voxels."""
    count = runs[0].settings.slat_steps if runs else 1
    for group in _batches(runs):
        yield from _sample_latents(networks, group)
    yield count, count


def _sample_latents(networks: Networks, runs: list[Run]) -> Steps:
    from gap3d_app.sparse.tensor import SparseTensor

    flow = networks.part(runs[0].route + "slat_flow")
    _check_fit(runs[0], flow, "slat_flow")
    sampler, (cond, null) = _flow_sampler(networks, "slat", runs[0]), _followed(runs)
    channels, items = flow.config.in_channels, []
    for run in runs:
        generator = stage_generator(run.settings.seed, "slat")
        noise = torch.randn((len(run.occupancy), channels), generator=generator).to(networks.device)
        items.append(SparseTensor(noise, run.occupancy.coords))
    for event in sampler.run(flow, _joined(items), cond, null):
        if event.step < sampler.steps:
            yield event.step, sampler.steps
    numbers = networks.args["slat_normalization"]
    std, mean = (event.state.feats.new_tensor(numbers[key]) for key in ("std", "mean"))
    for run, latent in zip(runs, _parted(event.state.replace(event.state.feats * std + mean)), strict=True):
        if _check_finite(run, latent.feats, "structured latent"):
            run.slat = SLat(latent, run.occupancy.resolution)


@torch.no_grad()
def decode_stage(networks: Networks, runs: list[Run]) -> Steps:
    """What the decoders make of the latents: cells of the surface, and what else the settings ask for."""
    asked = {kind: [run for run in runs if kind in _wanted(run.settings)] for kind in DECODERS}
    count = 1 + sum(map(bool, asked.values()))
    if runs:
        surfaces = networks.part("slat_decoder_mesh")(_joined([run.slat.tensor for run in runs]))
        for run, surface in zip(runs, _parted(surfaces), strict=True):
            run.surface = surface
    yield 1, count
    for step, (kind, some) in enumerate(((kind, some) for kind, some in asked.items() if some), 2):
        decoder = networks.part(DECODERS[kind])
        decoded = decoder(_joined([run.slat.tensor for run in some]))
        for run, part, made in zip(some, _parted(decoded), decoder.to_representation(decoded), strict=True):
            if _check_finite(run, part.feats, _NAMES[kind]):
                setattr(run, kind, made)
        yield step, count
    for run in runs:  # maps of a million voxels, which nothing needs from here on
        run.slat.tensor.sites.forget()
        run.surface.sites.forget()


@torch.no_grad()
def mesh_stage(networks: Networks, runs: list[Run]) -> Steps:
    """The coloured meshes."""
    from gap3d_app.geometry.flexicubes import extract

    for run in runs:
        if run.mesh is not None:  # made before memory ran out at another one
            continue
        surface, resolution = run.surface, networks.part("slat_decoder_mesh").out_resolution
        if not _check_finite(run, surface.feats, "surface"):
            continue
        result = extract(surface.coords[:, 1:], surface.feats, resolution, solid=True, bounds=surface.sites.bounds)
        run.surface, run.mesh = None, result.to_mesh()
        if run.mesh.is_empty:
            run.failure = GenerationError("The surface came out empty; try another seed or other words.")
    yield 1, 1


def encode_pictures(networks: Networks, pictures: list[Image]) -> TokenGrid:
    """The image encoder's grids [n, N, C] of pictures that are already cropped and on black."""
    from gap3d_app.models.pictures import square_picture

    encoder = networks.part("image_encoder")
    size, side = encoder.config.image_size, encoder.config.image_size // encoder.config.patch_size
    batch = torch.stack([square_picture(picture, size) for picture in pictures])
    return TokenGrid(encoder.encode(batch.to(networks.device)).float(), side, side)


def blend_grids(text: TokenGrid, image: TokenGrid, weight: float) -> TokenGrid:
    """The line from the grid of the words (weight 0) to that of the picture (weight 1), layer-normalised.

    A mean of unit-variance tokens is shorter than they are, so every token is normalised again (gap3d.md 0.2).
    """
    if text.tokens.shape != image.tokens.shape:
        raise WeightsError(
            f"The image encoder gives tokens {tuple(image.tokens.shape)}, the grid transformer "
            f"{tuple(text.tokens.shape)}; these weights cannot blend."
        )
    mixed = torch.lerp(text.tokens, image.tokens, weight)
    return TokenGrid(F.layer_norm(mixed, mixed.shape[-1:], eps=1e-5), text.height, text.width)


def stage_generator(seed: int, stage: str) -> torch.Generator:
    """A CPU generator of a stage's own, so that a change in one stage leaves the noise of the others alone."""
    digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _flow_sampler(networks: Networks, stage: str, run: Run) -> FlowSampler:
    mode = run.prompt.multi_image if len(run.grid.tokens) > 1 else None
    sampler = flow_sampler(networks.args, stage, run.settings, run.route, mode)
    if mode == "stochastic" and sampler.steps < len(run.grid.tokens):
        warning = (
            f"The stage {stage} follows one picture a step and has {sampler.steps} steps for {len(run.grid.tokens)} "
            "pictures, so it left the last ones out; give it more steps, or take the pictures together "
            "(multidiffusion)."
        )
        if warning not in run.warnings:  # the stage begins again where memory ran out
            run.warnings.append(warning)
    return sampler


def _check_fit(run: Run, flow: nn.Module, role: str) -> None:
    """Encoder and flow may come from different repositories."""
    found, expected = run.grid.tokens.shape[-1], flow.config.cond_channels
    if found != expected:
        raise WeightsError(
            f"The encoder is of another family than the {run.route}{role}: it gives {found} channels, {expected} are "
            "expected; give the encoder that docs/weights.md names for these weights."
        )


def _grouped(runs: list[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    """Runs with equal keys together, in order of appearance."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _batches(runs: list[Run]) -> list[list[Run]]:
    """Runs that a flow can take together: several conditions for one sample need a batch of their own."""
    return _grouped(runs, lambda run: id(run) if len(run.grid.tokens) > 1 else run.route)


def _followed(runs: list[Run]) -> tuple[Tensor, Tensor]:
    """Conditions [B, N, C] of a flow, and [1, N, C] for its unconditional prediction."""
    cond = torch.cat([run.grid.tokens for run in runs])
    return cond, torch.zeros_like(cond[:1]) if runs[0].null is None else runs[0].null


def _joined(items: list[Any]) -> Any:
    """Sparse tensors as one batch; a single one keeps its sites, and with them the maps already made."""
    return items[0] if len(items) == 1 else items[0].batched(items)


def _parted(batch: Any) -> list[Any]:
    return [batch] if batch.batch_size == 1 else [batch[i] for i in range(batch.batch_size)]


def _check_finite(run: Run, values: Tensor, what: str) -> bool:
    # Both ends are NaN where any value is; a mask of all values would take more memory than the surface does.
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        run.failure = GenerationError(f"The {what} came out with values that are not finite; try lower guidance.")
    return run.failure is None
