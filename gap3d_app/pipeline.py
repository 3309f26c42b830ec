"""From a prompt to an asset: six rooms in a straight line, one event for every finished step.

    prompt -> grid -> structure -> slat -> decode -> mesh -> asset

`Gap3DPipeline.stages` is a generator; the page, the command line and `__call__` all run it and read its
events. Sources: gap3d.md sections 1, 5 and 6; trellis.md section 1.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gap3d_app import hub, memory, stages
from gap3d_app.asset import Asset
from gap3d_app.errors import GenerationError, WeightsError
from gap3d_app.fast_flows import FastFlows
from gap3d_app.kernels import fast_dtype
from gap3d_app.memory import Residency, choose
from gap3d_app.models.checkpoint import load_model, weight_files
from gap3d_app.modes import BATCH_OF, BATCHES, LOWERED, RESIDENT, SMALL_BATCHES
from gap3d_app.progress import STAGES, Cancel, StageEvent, stop_if
from gap3d_app.prompt import PROMPT_OPTIONS, Prompt
from gap3d_app.recipe import write_recipe
from gap3d_app.settings import Settings, presets
from gap3d_app.sources.names import Names, is_assembled, split
from gap3d_app.stages import Run, Steps
from gap3d_app.values import Mesh, Occupancy, SLat

_MODEL_LOCK = threading.Lock()  # one run at a time in a process, whatever door it came through


def _new_lock() -> None:
    """A forked process has the lock as it was, but not the thread that would open it."""
    global _MODEL_LOCK
    _MODEL_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

class Gap3DPipeline:
    """The models of one weights folder and the way through them.

    Attributes:
        name: name of the weights folder.
        presets: sampler values per preset name, for `Settings.validated(pipe.presets, ...)`.
        weights_hash: sha256 (hex) of the weights' manifest, which names every file's sha256.
        device: where the models are.
        dtype: floating-point type of the large matrix products.
        memory: where the networks are, see `memory.Residency`.
        flows: the networks that take steps, in their fast form where all are resident on CUDA.
    """

    def __init__(
        self, folder: Path, args: dict[str, Any], weights_hash: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.name, self.folder, self.args, self.weights_hash = folder.resolve().name, folder, args, weights_hash
        self.device, self.dtype = device, dtype
        self.presets = presets(args)
        self.memory, self.flows = Residency(device), FastFlows(device)
        self._parts: dict[str, nn.Module] = {}

    @classmethod
    def from_pretrained(
        cls, name_or_dir: Names = "gap3d-mini", device: str = "auto", dtype: Any = "auto", memory: str = "auto",
        compile: bool = False,
    ) -> Gap3DPipeline:  # fmt: skip
        """Check the weights; networks are loaded when a run first needs them, or by `preload`.

        Args:
            name_or_dir: "gap3d-mini" (the folder that comes with the repository) or a path; or the name, hub
                repository or folder of public weights, or several of these (a list, or commas between them),
                which are put together by `sources.assemble`. Nothing is downloaded.
            device: "auto" (CUDA when there is one), or any torch device.
            dtype: "auto" (bfloat16 where the hardware multiplies it fast, else float32), or a torch dtype.
            memory: the mode: "auto" (resident, unless the graphics card has too little free memory),
                or one of `modes.MODES`.
            compile: compile full-size flow networks for the graphics card: the first run takes tens of seconds
                longer, every other one a quarter less time. Without effect elsewhere, and in low-vram mode.

        Raises:
            WeightsError: a file is missing, truncated or altered; the message names it with both sha256.
            InputError: there is no such memory mode.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        name_or_dir = split(name_or_dir)
        if is_assembled(name_or_dir):
            from gap3d_app.sources.assemble import assemble

            parts = assemble(name_or_dir)
            pipeline = cls(parts.folder, parts.args, parts.fingerprint, device, fast_dtype(device, dtype))
            pipeline.name = parts.name
        else:
            folder = hub.resolve(name_or_dir)
            weights_hash = hub.verify(folder)
            pipeline = cls(folder, hub.read_pipeline(folder), weights_hash, device, fast_dtype(device, dtype))
        pipeline.memory = Residency(device, choose(memory, device, pipeline.sizes))
        pipeline.flows.compile = compile
        return pipeline

    def preload(self) -> Gap3DPipeline:
        """Load every network now, so that the first run is as fast as the next."""
        with _MODEL_LOCK:
            for name in self.args["models"]:
                self._loaded(name)
        return self

    @property
    def batches(self) -> dict[str, int]:
        """Runs that the networks take at once, per stage."""
        roomy = self.memory.mode == RESIDENT
        return BATCHES.get(self.device.type, SMALL_BATCHES) if roomy else SMALL_BATCHES

    def sizes(self) -> dict[str, int]:
        """About the bytes of every network on a graphics card, by its role."""
        return {role: self._size_of(role) for role in self.args["models"]}

    def _size_of(self, role: str) -> int:
        source = self.args["models"][role]
        if isinstance(source, str):  # files, whose int8 matrices double
            return 2 * sum(file.stat().st_size for file in weight_files(self.folder / source))
        return source.size

    def settings(self, prompt: Prompt | None = None, **raw: Any) -> Settings:
        """`Settings.validated` with this pipeline's presets; those of TRELLIS's text models for a prompt of theirs."""
        route = stages.route_of(self.args, prompt) if prompt else ""
        return Settings.validated(presets(self.args, route) if route else self.presets, **raw)

    def stages(
        self, prompt: str | Prompt | None = None, image: Any = None, settings: Settings | None = None,
        cancel: Cancel = None, **more: Any,
    ) -> Iterator[StageEvent]:  # fmt: skip
        """Run a prompt and yield an event after every step.

        One run at a time uses the models of a process: a second caller waits for the first before its first
        event. Closing the generator (or leaving a for loop over it) ends the run and frees the models.

        Args:
            prompt: what to make, in words; empty or None with an image means the image alone. Or a whole Prompt.
            image: a picture (path, encoded bytes, PIL image), a CutOut that was shown before, or a list of
                those that show one object from several sides.
            settings: from `settings(...)`; None means the standard preset with seed 0.
            cancel: an event, or a function that returns True, to stop the run; asked after every step.
            **more: further arguments of `Prompt.read`: multi_image, exact_preprocessing, mesh.

        Raises:
            InputError: nothing to work from, a prompt too long, a picture that cannot be used.
            GenerationError: the structure came out empty for three seeds in a row, or values are not finite.
            OutOfMemory: the device's memory is too small even in low-vram mode.
            Cancelled: `cancel` said so.
        """
        prompt = Prompt.given(prompt, image, **more)
        run = Run(prompt, settings or self.settings(prompt))
        while not _MODEL_LOCK.acquire(timeout=0.1):
            stop_if(cancel)
        try:
            for stage in STAGES:
                start = time.perf_counter()
                with closing(self._steps(stage, [run])) as steps:  # networks go home before others may run
                    for step, of in steps:
                        seconds = run.seconds[stage] = time.perf_counter() - start
                        if run.failure:
                            raise run.failure
                        stop_if(cancel)
                        yield StageEvent(stage, step, of, seconds, self._made(run, stage) if step == of else None)
                        stop_if(cancel)
        finally:
            _MODEL_LOCK.release()

    def __call__(
        self, prompt: str | Prompt | None = None, image: Any = None, settings: Settings | None = None, **raw: Any
    ) -> Asset:
        """Run all stages; `pipe(prompt="a red chair", seed=3, preset="fast")`.

        Args:
            prompt, image, settings: as for `stages`.
            **raw: single settings by name, checked, not together with settings; and `Prompt.read`'s multi_image,
                exact_preprocessing, mesh.
        """
        more = {name: raw.pop(name) for name in PROMPT_OPTIONS if name in raw}
        prompt = Prompt.given(prompt, image, **more)
        for event in self.stages(prompt, settings=self._settings(settings, prompt, raw)):
            last = event
        return last.preview

    def variant(
        self, mesh: Mesh | str | Path, prompt: str | Prompt | None = None, image: Any = None, **raw: Any
    ) -> Asset:
        """A new surface and new colours on the voxels of a given shape (trellis.md section 1.9).

        Args:
            mesh: in object space (Z-up, front -Y), any size and place; or a file of one.
            prompt, image, **raw: as for a call.

        Raises:
            InputError: the mesh cannot be read or has no extent.
        """
        from gap3d_app.geometry.mesh_reader import read_mesh

        mesh = mesh if isinstance(mesh, Mesh) else read_mesh(mesh)
        if isinstance(prompt, Prompt):
            return self(replace(prompt, mesh=mesh), image, **raw)
        return self(prompt, image, mesh=mesh, **raw)

    def decode(self, slat: SLat, **raw: Any) -> Asset:
        """The asset of a structured latent, such as another asset's or that of `posed_views.encode_views`.

        Args:
            slat: of one asset, in the space of the decoders (not normalised for the flow).
            **raw: single settings by name, checked.
        """
        run = Run(Prompt(), self.settings(**raw), occupancy=Occupancy(slat.coords, slat.resolution), slat=slat)
        with _MODEL_LOCK:
            for stage in ("decode", "mesh"):
                self._run_stage(stage, [run])
        if run.failure:
            raise run.failure
        return self._made(run, "asset")

    def batch(
        self, prompts: Sequence[str | Prompt], seeds: Sequence[int] | None = None, settings: Settings | None = None,
        **raw: Any,
    ) -> list[Asset | GenerationError]:  # fmt: skip
        """Make many assets, the networks taking many prompts at once.

        Args:
            prompts: words, or whole `Prompt`s.
            seeds: one for each prompt; None gives all of them the seed of the settings.
            settings, **raw: as for a call, shared by all.

        Returns:
            What the calls with the single prompts and seeds would give, up to the rounding of batched sums; in
            place of an asset that could not be made, the error that the call would raise.
        """
        spec = Settings.specs()["seed"]
        asked = [Prompt.given(prompt) for prompt in prompts]
        runs = [Run(prompt, self._settings(settings, prompt, raw)) for prompt in asked]
        seeds = [run.settings.seed for run in runs] if seeds is None else seeds
        for run, seed in zip(runs, seeds, strict=True):
            run.settings = replace(run.settings, seed=spec.check(seed))
        with _MODEL_LOCK:
            return [run.failure or self._made(run, "asset") for run in self._through(runs)]

    def _through(self, runs: list[Run]) -> Iterator[Run]:
        """All stages up to the mesh, for many runs with equal settings but for the seed; each when it is done."""
        for chunk in _chunks(runs, self.batches["structure"]):
            for stage in ("prompt", "grid", "structure"):
                self._run_stage(stage, chunk)
            for part in _chunks(chunk, self.batches["slat"]):
                self._run_stage("slat", part)
                for few in _chunks(part, self.batches["mesh"]):
                    self._run_stage("decode", few)
                    self._run_stage("mesh", few)
                    yield from few

    def _run_stage(self, stage: str, runs: list[Run]) -> None:
        alive, start = [run for run in runs if run.failure is None], time.perf_counter()
        for _ in self._steps(stage, alive):
            pass
        for run in alive:
            run.seconds[stage] = (time.perf_counter() - start) / len(alive)

    def _steps(self, stage: str, runs: list[Run]) -> Steps:
        """A stage's steps; where memory runs out, all of them again: without records kept, then in the next lower mode.

        Raises:
            OutOfMemory: there is no lower one.
        """
        work = getattr(stages, f"{stage}_stage", None)
        while True:
            try:
                for few in _chunks(runs, self.batches[BATCH_OF[stage]]):
                    yield from work(self, few) if work else [(1, 1)]
                return
            except Exception as error:
                if not memory.is_out_of_memory(error):
                    raise
            finally:
                self.flows.rest()
                self.memory.send_home()
            # Outside of the handler, because the error holds what its functions had on the device.
            if self.flows.spare():
                continue
            if not self.lower_memory():
                raise memory.shortage(stage, self.device, self._largest())
            for run in runs:
                run.warnings.append(LOWERED.format(stage=stage, mode=self.memory.mode))

    def lower_memory(self) -> bool:
        """Go to the next lower memory mode, where all networks are plain; False when there is none."""
        self.flows.clear()
        return self.memory.lower(self._parts)

    def _largest(self) -> int:
        return max(min(size, self.memory.largest_whole) for size in self.sizes().values())

    def _made(self, run: Run, stage: str) -> Any:
        """What a stage's last event carries."""
        if stage == "asset":
            recipe = write_recipe(run, {"name": self.name, "manifest_sha256": self.weights_hash}, self.dtype)
            warnings = [cut.warning for cut in run.prompt.pictures if cut.warning] + run.warnings
            values = (run.mesh, run.gaussians, run.radiance, run.occupancy, run.slat, run.grid)
            return Asset(*values, recipe, run.seconds, warnings)
        made = dict(grid=run.grid, structure=run.occupancy, slat=run.slat, decode=run.gaussians, mesh=run.mesh)
        return made.get(stage)

    def _settings(self, settings: Settings | None, prompt: Prompt, raw: dict[str, Any]) -> Settings:
        if settings is not None and raw:
            raise TypeError("give settings or single settings by name, not both")
        return settings or self.settings(prompt, **raw)

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """A network by its role, for work outside of a run, which waits meanwhile."""
        with _MODEL_LOCK:
            try:
                yield self.part(name)
            finally:
                self.memory.send_home()

    def part(self, name: str) -> Any:
        """A network by its role, on the device until the stage at work ends; loaded on first use.

        Where networks are resident on CUDA, a flow network comes as a `FastFlow`.
        """
        network = self._loaded(name)
        self.memory.bring(name, network)
        if self.memory.mode != RESIDENT:
            return network
        return self.flows.of(name, network, memory.byte_size(network))

    def will_compile(self, roles: Collection[str]) -> bool:
        """Whether the next run compiles one of these networks first."""
        here = [role for role in roles if role in self.args["models"]] if self.memory.mode == RESIDENT else []
        return any(self.flows.will_compile(role, self._size_of(role)) for role in here)

    def _loaded(self, name: str) -> nn.Module:
        if name not in self._parts:
            if name not in self.args["models"]:
                from gap3d_app.sources.assemble import remedy

                raise WeightsError(f"The weights {self.name!r} have no {name}; {remedy(self.args, name)}.")
            source = self.args["models"][name]
            dtype, home = None if self.dtype == torch.float32 else self.dtype, self.memory.home
            if isinstance(source, str):
                model = load_model(self.folder / source, device=home, dtype=dtype)
            else:  # a Part of public weights, streamed to where it stays
                model = source.load(self.device, dtype, home)
            if name == "prompt_encoder" and model.tokenizer is None:
                from gap3d_app.models.prompt_tokenizer import PromptTokenizer

                path = self.folder / self.args.get("tokenizer", "tokenizer.json")
                model.tokenizer = PromptTokenizer.from_file(path, model.config)
            self._parts[name] = self.memory.settle(model.requires_grad_(False))
        return self._parts[name]


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
