"""From a prompt to an asset: six rooms in a straight line, one event for every finished step.

    prompt -> grid -> structure -> slat -> decode -> mesh -> asset

`Gap3DPipeline.stages` is a generator; the page, the command line and `__call__` all run it and read its
events. Sources: gap3d.md sections 1, 5 and 6; trellis.md section 1.
"""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app import __version__, hub
from gap3d_app.asset import Asset
from gap3d_app.errors import Cancelled, GenerationError, WeightsError
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.checkpoint import load_model
from gap3d_app.prompt import Prompt, preprocess_image
from gap3d_app.settings import PRESETS, Settings
from gap3d_app.values import Gaussians, Mesh, Occupancy, SLat, TokenGrid

if TYPE_CHECKING:
    from PIL.Image import Image

    from gap3d_app.background import CutOut

STAGES = ("prompt", "grid", "structure", "slat", "decode", "mesh", "asset")
"""Names of the stages in the order in which they run."""

STRUCTURE_TRIES = 3
"""Seeds that are tried before an empty structure is reported."""

_MODEL_LOCK = threading.Lock()  # one run at a time in a process, whatever door it came through

Cancel = threading.Event | Callable[[], bool] | None


@dataclass(frozen=True)
class StageEvent:
    """One finished step of one stage.

    Attributes:
        stage: one of STAGES.
        step: finished steps of this stage, 1..of. The event with step == of ends the stage.
        of: steps that this stage has.
        seconds: wall time since the stage began.
        preview: on a stage's last event what the stage made, else None: prompt None, grid TokenGrid,
            structure Occupancy, slat SLat, decode Gaussians (None when formats has no ply), mesh Mesh with
            vertex colours, asset the finished Asset.
    """

    stage: str
    step: int
    of: int
    seconds: float
    preview: Any = None

    @property
    def done(self) -> bool:
        """True for the last event of a stage."""
        return self.step == self.of


@dataclass
class _Run:
    """What one run has made so far; every stage reads what it needs and adds its own."""

    prompt: Prompt
    settings: Settings
    condition: Tensor | None = None
    picture: Image | None = None
    grid: TokenGrid | None = None
    occupancy: Occupancy | None = None
    tries: int = 0
    slat: SLat | None = None
    gaussians: Gaussians | None = None
    surface: Any = None
    mesh: Mesh | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Gap3DPipeline:
    """The models of one weights folder and the way through them.

    Attributes:
        name: name of the weights folder.
        presets: sampler values per preset name, for `Settings.validated(pipe.presets, ...)`.
        weights_hash: sha256 (hex) of the weights' manifest, which names every file's sha256.
        device: where the models are.
        dtype: floating-point type of the large matrix products.
    """

    def __init__(
        self, folder: Path, args: dict[str, Any], weights_hash: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.name, self.folder, self.args, self.weights_hash = folder.resolve().name, folder, args, weights_hash
        self.device, self.dtype = device, dtype
        self.presets = _presets(args)
        self._parts: dict[str, nn.Module] = {}

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = "gap3d-mini", device: str = "auto", dtype: Any = "auto"
    ) -> Gap3DPipeline:
        """Check a weights folder; its networks are loaded when a run first needs them, or by `preload`.

        Args:
            name_or_dir: "gap3d-mini" (the folder that comes with the repository) or a path.
            device: "auto" (CUDA when there is one), or any torch device.
            dtype: "auto" (bfloat16 where the hardware multiplies it fast, else float32), or a torch dtype.

        Raises:
            WeightsError: a file is missing, truncated or altered; the message names it with both sha256.
        """
        folder = hub.resolve(name_or_dir)
        weights_hash = hub.verify(folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        return cls(folder, hub.read_pipeline(folder), weights_hash, device, _fast_dtype(device, dtype))

    def preload(self) -> Gap3DPipeline:
        """Load every network now, so that the first run is as fast as the next."""
        with _MODEL_LOCK:
            for name in self.args["models"]:
                self._part(name)
        return self

    def settings(self, **raw: Any) -> Settings:
        """`Settings.validated` with this pipeline's presets."""
        return Settings.validated(self.presets, **raw)

    def stages(
        self,
        prompt: str | None = None,
        image: str | Path | bytes | Image | CutOut | None = None,
        settings: Settings | None = None,
        cancel: Cancel = None,
    ) -> Iterator[StageEvent]:
        """Run a prompt and yield an event after every step.

        One run at a time uses the models of a process: a second caller waits for the first before its first
        event. Closing the generator (or leaving a for loop over it) ends the run and frees the models.

        Args:
            prompt: what to make, in words; empty or None with an image means the image alone.
            image: a picture (path, encoded bytes, PIL image), or a CutOut that was shown before.
            settings: from `settings(...)`; None means the standard preset with seed 0.
            cancel: an event, or a function that returns True, to stop the run; asked after every step.

        Raises:
            InputError: nothing to work from, a prompt too long, a picture that cannot be used.
            GenerationError: the structure came out empty for three seeds in a row.
            Cancelled: `cancel` said so.
        """
        settings = settings or self.settings()
        run = _Run(Prompt.read(prompt, image), settings)
        while not _MODEL_LOCK.acquire(timeout=0.1):
            _stop_if(cancel)
        try:
            for stage in STAGES:
                start = time.perf_counter()
                for step, of, preview in getattr(self, f"_{stage}")(run):
                    seconds = run.seconds[stage] = time.perf_counter() - start
                    _stop_if(cancel)
                    yield StageEvent(stage, step, of, seconds, preview)
                    _stop_if(cancel)
        finally:
            _MODEL_LOCK.release()

    def __call__(
        self, prompt: str | None = None, image: Any = None, settings: Settings | None = None, **raw: Any
    ) -> Asset:
        """Run all stages; `pipe(prompt="a red chair", seed=3, preset="fast")`.

        Args:
            prompt, image, settings: as for `stages`.
            **raw: single settings by name, checked; not together with settings.
        """
        if settings is not None and raw:
            raise TypeError("give settings or single settings by name, not both")
        for event in self.stages(prompt, image, settings or self.settings(**raw)):
            last = event
        return last.preview

    # Every stage is a generator of (finished steps, all steps, preview or None) that fills in the run.

    @torch.no_grad()
    def _prompt(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        if run.prompt.picture is not None:
            # Both readers see the object as TRELLIS crops it: centred, on black, at the encoder's size.
            size = self._part("image_encoder").config.image_size
            run.picture = preprocess_image(run.prompt.picture.rgba, size)
        if run.prompt.text and not (run.picture is not None and run.settings.blend == 1.0):
            pictures = None if run.picture is None else [run.picture]
            run.condition = self._part("prompt_encoder")([run.prompt.text], pictures).float()
        yield 1, 1, None

    @torch.no_grad()
    def _grid(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        from gap3d_app.models.grid_sampling import draw_grid_noise, grid_sampler, sample_grid
        from gap3d_app.models.token_grid import pack_grid

        of_picture = None if run.picture is None else self._encode_picture(run.picture)
        if run.condition is None:
            run.grid = of_picture
            yield 1, 1, run.grid
            return
        dit = self._part("grid_dit")
        params = self._sampler_params("grid_sampler", "steps", "guidance_scale")
        sampler = grid_sampler(run.settings.grid_steps, run.settings.grid_guidance, **params)
        noise = draw_grid_noise(dit.config, stage_generator(run.settings.seed, "grid"), device=self.device)
        side, count = dit.config.input_size, sampler.steps
        for event in sample_grid(dit, run.condition, noise, sampler):
            if event.step < count:
                yield event.step, count, None
        run.grid = TokenGrid(pack_grid(*event.state), side, side)
        if of_picture is not None and run.settings.blend > 0:
            run.grid = blend_grids(run.grid, of_picture, run.settings.blend)
        _require_finite(run.grid.tokens, "token grid")
        yield count, count, run.grid

    @torch.no_grad()
    def _structure(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        flow, decoder = self._part("structure_flow"), self._part("structure_decoder")
        sampler = FlowSampler(
            steps=run.settings.structure_steps, cfg_strength=run.settings.structure_guidance,
            **self._sampler_params("structure_sampler", "steps", "cfg_strength"),
        )
        shape = (1, flow.config.in_channels, *[flow.config.resolution] * 3)
        cond, count = run.grid.tokens, sampler.steps
        for run.tries in range(1, STRUCTURE_TRIES + 1):
            generator = stage_generator(run.settings.seed + run.tries - 1, "structure")
            noise = torch.randn(shape, generator=generator).to(self.device)
            for event in sampler.run(flow, noise, cond, torch.zeros_like(cond)):
                if event.step < count:
                    yield event.step, count, None
            logits = decoder(event.state)
            _require_finite(logits, "structure")
            coords = torch.argwhere(logits[:, 0] > 0).int()
            if len(coords):
                run.occupancy = Occupancy(coords, logits.shape[-1])
                yield count, count, run.occupancy
                return
        raise GenerationError(
            f"The structure came out empty for {STRUCTURE_TRIES} seeds, {run.settings.seed} and the next; try "
            "another seed or other words."
        )

    @torch.no_grad()
    def _slat(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        from gap3d_app.sparse.tensor import SparseTensor

        flow = self._part("slat_flow")
        sampler = FlowSampler(
            steps=run.settings.slat_steps, cfg_strength=run.settings.slat_guidance,
            **self._sampler_params("slat_sampler", "steps", "cfg_strength"),
        )
        shape = (len(run.occupancy), flow.config.in_channels)
        noise = torch.randn(shape, generator=stage_generator(run.settings.seed, "slat")).to(self.device)
        cond, count = run.grid.tokens, sampler.steps
        state = SparseTensor(noise, run.occupancy.coords)
        for event in sampler.run(flow, state, cond, torch.zeros_like(cond)):
            if event.step < count:
                yield event.step, count, None
        normalization = self.args["slat_normalization"]
        std, mean = (event.state.feats.new_tensor(normalization[key]) for key in ("std", "mean"))
        feats = event.state.feats * std + mean
        _require_finite(feats, "structured latent")
        run.slat = SLat(event.state.replace(feats), run.occupancy.resolution)
        yield count, count, run.slat

    @torch.no_grad()
    def _decode(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        run.surface = self._part("slat_decoder_mesh")(run.slat.tensor)
        yield 1, 2, None
        if "ply" in run.settings.formats:
            decoder = self._part("slat_decoder_gs")
            run.gaussians = decoder.to_representation(decoder(run.slat.tensor))[0]
        yield 2, 2, run.gaussians

    @torch.no_grad()
    def _mesh(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        from gap3d_app.geometry.flexicubes import extract

        surface, resolution = run.surface, self._part("slat_decoder_mesh").out_resolution
        _require_finite(surface.feats, "surface")
        result = extract(surface.coords[:, 1:], surface.feats, resolution, solid=True)
        run.surface, run.mesh = None, result.to_mesh()
        if run.mesh.is_empty:
            raise GenerationError("The surface came out empty; try another seed or other words.")
        yield 1, 1, run.mesh

    def _asset(self, run: _Run) -> Iterator[tuple[int, int, Any]]:
        cut = run.prompt.picture
        asset = Asset(run.mesh, run.gaussians, run.occupancy, run.slat, run.grid, self._recipe(run), run.seconds)
        if cut is not None and cut.warning:
            asset.warnings.append(cut.warning)
        yield 1, 1, asset

    def _recipe(self, run: _Run) -> dict[str, Any]:
        settings = run.settings.as_dict()
        del settings["formats"]  # which files are written does not change what is in them
        cut = run.prompt.picture
        return {
            "prompt": run.prompt.text,
            "image": None if cut is None else {"sha256": cut.sha256, "background": cut.method},
            "settings": settings,
            "structure_seed": run.settings.seed + run.tries - 1,
            "weights": {"name": self.name, "manifest_sha256": self.weights_hash},
            "versions": {
                "gap3d_app": __version__, "torch": torch.__version__, "python": platform.python_version(),
            },
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def _encode_picture(self, picture: Image) -> TokenGrid:
        from gap3d_app.models.pictures import square_picture

        encoder = self._part("image_encoder")
        tokens = encoder.encode(square_picture(picture, encoder.config.image_size)[None].to(self.device))
        side = encoder.config.image_size // encoder.config.patch_size
        return TokenGrid(tokens.float(), side, side)

    def _sampler_params(self, name: str, *from_settings: str) -> dict[str, Any]:
        """A sampler's further arguments from pipeline.json (TRELLIS's layout: args, and params of a run)."""
        entry = self.args.get(name, {})
        merged = {**entry.get("args", {}), **entry.get("params", {})}
        return {key: value for key, value in merged.items() if key not in from_settings}

    def _part(self, name: str) -> nn.Module:
        """A network by its role, loaded on first use."""
        if name not in self._parts:
            if name not in self.args["models"]:
                raise WeightsError(f"The weights {self.name!r} have no {name}; use other weights.")
            stem = self.folder / self.args["models"][name]
            dtype = None if self.dtype == torch.float32 else self.dtype
            model = load_model(stem, device=self.device, dtype=dtype)
            if name == "prompt_encoder":
                from gap3d_app.models.prompt_tokenizer import PromptTokenizer

                path = self.folder / self.args.get("tokenizer", "tokenizer.json")
                model.tokenizer = PromptTokenizer.from_file(path, model.config)
            self._parts[name] = model.requires_grad_(False)
        return self._parts[name]


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


def _presets(args: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Values per preset: what the samplers' params say, then what the preset says."""
    base = {}
    for stage in ("grid", "structure", "slat"):
        params = args.get(f"{stage}_sampler", {}).get("params", {})
        guidance = "guidance_scale" if stage == "grid" else "cfg_strength"
        for setting, key in ((f"{stage}_steps", "steps"), (f"{stage}_guidance", guidance)):
            if key in params:
                base[setting] = params[key]
    return {name: {**base, **args.get("presets", {}).get(name, {})} for name in PRESETS}


def _fast_dtype(device: torch.device, dtype: Any) -> torch.dtype:
    """bfloat16 on CUDA and on processors with bfloat16 instructions; others run it ten times slower."""
    if dtype != "auto":
        return getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if device.type == "cuda":
        return torch.bfloat16
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if any(getattr(torch.cpu, check, bool)() for check in checks):
            return torch.bfloat16
    return torch.float32


def _require_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise GenerationError(f"The {what} came out with values that are not finite; try lower guidance.")


def _stop_if(cancel: Cancel) -> None:
    if cancel is not None and (cancel.is_set() if isinstance(cancel, threading.Event) else cancel()):
        raise Cancelled("The run was cancelled.")
