"""The one training loop: accelerate, EMA, resume, logging, samples.

A stage is a module whose `forward(batch)` returns `(loss, metrics)`; everything that differs between stages
lives there. This file owns what they share:

* mixed precision and data parallelism by accelerate (`accelerate launch -m train.<stage> --config ...`);
* Muon for the matrices inside transformer blocks, AdamW for the rest; warm-up, then cosine to a floor;
* an exponential moving average with warm-up, which is what gets sampled and exported;
* the next batch, drawn while the device works on the backward pass;
* checkpoints to resume from (train/checkpoints.py);
* scalars to TensorBoard and to `log.jsonl`.
"""

import argparse
import atexit
import json
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from gap3d_app.models.checkpoint import load_model
from gap3d_app.nn.parallel import Beside
from train.checkpoints import Ema, find_checkpoint, load_checkpoint, save_checkpoint
from train.muon import BatchedMuon
from train.profiling import StepProfile


@dataclass
class LoopConfig:
    """What every stage's YAML has under `loop:`.

    steps, batch_size (samples per process and step), lr (peak, AdamW), muon_lr (peak, matrices of blocks; 0
    leaves them to AdamW), warmup (steps), lr_floor (fraction of the peak at the end), weight_decay,
    clip (gradient norm), ema (decay), log_every / sample_every / save_every (steps; 0 is only at the end, and no
    samples then either), seed, compile (regional torch.compile on CUDA), minutes (wall time of the whole stage, resumed
    runs included: it ends and the learning rate has come down when either `steps` or `minutes` is reached; 0 is
    no limit), profile (steps to measure, see train/profiling.py), init (trained network of the stage -> saved
    network to start from, such as `encoder: weights/gap3d-mini/image_encoder`; a checkpoint of the run wins), keep
    (share of the networks of `init` in those that are saved: a mean of both remembers what tuning forgets, arXiv
    2109.01903).
    """

    steps: int
    batch_size: int
    lr: float = 1e-3
    muon_lr: float = 0.0
    warmup: int = 100
    lr_floor: float = 0.02
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    log_every: int = 20
    sample_every: int = 0
    save_every: int = 0
    seed: int = 0
    compile: bool = True
    minutes: float = 0.0
    profile: int = 0
    init: dict[str, str] = field(default_factory=dict)
    keep: float = 0.0


class Stage(nn.Module, ABC):
    """One training stage. Subclasses hold their networks as submodules.

    `trained` names the submodules that learn and are saved; other submodules are frozen parts.
    """

    trained: tuple[str, ...] = ()

    @abstractmethod
    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """A batch on the training device, drawn with `generator`.

        On CUDA it is made beside the step before: what asks the device for results, such as maps of voxels, belongs
        here and not into `forward`, where all waits for the answer.
        """

    @abstractmethod
    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics): scalars."""

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Write sample pictures to `folder` with the averaged weights; returns extra scalars."""
        return {}

    def compile_parts(self) -> None:
        """Compile what is called often, in place; asked for on CUDA, once all weights are there."""

    @abstractmethod
    def save_models(self, folder: Path) -> None:
        """Write the trained networks, as the app loads them, to `folder`."""

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Name to parameter of everything that learns, in a stable order."""
        return {
            f"{part}.{name}": p
            for part in self.trained
            for name, p in _module_or_parameter(getattr(self, part))
            if p.requires_grad
        }


def _module_or_parameter(part) -> list[tuple[str, nn.Parameter]]:
    return [("", part)] if isinstance(part, nn.Parameter) else list(part.named_parameters())


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compile every module in place.

    Sizes that differ from call to call become symbols at the second call. To make all of them symbols at once
    (`dynamic=True`) saves that compilation and takes longer: channels are symbols too then.
    """
    for module in modules:
        module.compile()


def make_optimizers(params: dict[str, nn.Parameter], cfg: LoopConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the 2-D weights of transformer blocks and AdamW for the others."""
    in_block = re.compile(r"\b(blocks|layers?)\.\d")
    matrices = [
        p
        for name, p in params.items()
        if cfg.muon_lr > 0 and p.ndim == 2 and in_block.search(name) and min(p.shape) > 16
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in params.values() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(
            torch.optim.AdamW(
                rest, lr=cfg.lr, betas=(0.9, 0.98), weight_decay=cfg.weight_decay, fused=rest[0].is_cuda
            )
        )
    if matrices:
        optimizers.append(BatchedMuon(matrices, lr=cfg.muon_lr, weight_decay=cfg.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def lr_factor(step: int, seconds: float, cfg: LoopConfig) -> float:
    """Linear warm-up, then cosine from 1 to `lr_floor` over the steps or the minutes, whichever ends first."""
    warm = min(1.0, (step + 1) / max(1, cfg.warmup))
    progress = min(1.0, max(step / cfg.steps, seconds / (60 * cfg.minutes) if cfg.minutes else 0.0))
    return warm * (cfg.lr_floor + (1 - cfg.lr_floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class Logger:
    """Scalars to TensorBoard and to `log.jsonl` (one object a line)."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder / "tensorboard")
        self.file = (folder / "log.jsonl").open("a")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Record scalars of one step."""
        for key, value in scalars.items():
            self.writer.add_scalar(key, value, step)
        self.file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in scalars.items()}}) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Flush both."""
        self.writer.close()
        self.file.close()


MOST_LEFT_OUT = 20
"""Batches that may be too large for the GPU before a stage gives up: those of voxels differ in size."""


def run(stage: Stage, cfg: LoopConfig, out: Path) -> dict[str, float]:
    """Train `stage`, resuming from the checkpoint in `out` if there is one; returns the last metrics.

    Leaves `out/log.jsonl`, `out/samples/`, `out/checkpoint/` and the networks (averaged weights) in
    `out/model/`. A batch that does not fit the GPU's memory is left out, in a process that trains alone.
    """
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    device = accelerator.device
    main = accelerator.is_main_process
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(cfg.seed)
    generator = torch.Generator(device).manual_seed(cfg.seed + 1 + accelerator.process_index)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        # cuDNN plans its attention anew for every shape, and sparse batches have a new one every step.
        torch.backends.cuda.enable_cudnn_sdp(False)
    for name, stem in cfg.init.items():
        getattr(stage, name).load_state_dict(load_model(stem).state_dict())
    stage.to(device)
    params = stage.trained_parameters()
    if cfg.keep and set(cfg.init) != set(stage.trained):
        raise ValueError(f"keep is a share of the networks of init, which must name {', '.join(stage.trained)}")
    begun = [p.detach().clone().float() for p in params.values()] if cfg.keep else []
    ema = Ema(params, cfg.ema)
    optimizers = make_optimizers(params, cfg)
    step, spent = 0, 0.0
    checkpoint = out / "checkpoint"
    if whole := find_checkpoint(checkpoint):
        step, spent = load_checkpoint(whole, params, ema, optimizers, generator)
    if cfg.compile and device.type == "cuda":
        stage.compile_parts()
    model, *prepared = accelerator.prepare(stage, *optimizers)
    logger = Logger(out) if main else None
    costs = StepProfile(out / "profile.txt", cfg.profile if main else 0, device)
    bar = tqdm(total=cfg.steps, initial=step, desc=out.name, disable=not main, mininterval=5.0)
    start = mark = time.perf_counter()
    logged = step
    metrics: dict[str, Tensor] = {}
    last: dict[str, float] = {}
    out_of_time, left_out, following, drawn = False, 0, None, generator.clone_state()
    while step < cfg.steps and not out_of_time:
        factor = lr_factor(step, spent + time.perf_counter() - start, cfg)
        for optimizer in prepared:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        beside = Beside(device)
        try:
            batch = following or stage.next_batch(cfg.batch_size, generator)
            with accelerator.autocast():
                loss, metrics = model(batch)
            accelerator.backward(loss)
            drawn = generator.clone_state()  # a checkpoint knows nothing of the batch that follows
            with beside:
                following = stage.next_batch(cfg.batch_size, generator)
        except torch.OutOfMemoryError:
            batch = following = None
            left_out += 1
            if left_out > MOST_LEFT_OUT or accelerator.num_processes > 1:
                raise
            tqdm.write(f"{out.name}: a batch at step {step} did not fit the GPU and was left out")
            stage.zero_grad()
            continue
        norm = accelerator.clip_grad_norm_(params.values(), cfg.clip)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        ema.update()
        costs.step_ended()
        step += 1
        bar.update()
        out_of_time = bool(cfg.minutes) and spent + time.perf_counter() - start > cfg.minutes * 60
        if accelerator.num_processes > 1:  # clocks differ; all processes must leave after the same step
            out_of_time = bool(broadcast(torch.tensor(out_of_time, device=device)))
        ends = out_of_time or step == cfg.steps
        if main and (ends or (cfg.log_every and step % cfg.log_every == 0)):
            now = time.perf_counter()
            last = {k: float(v) for k, v in {"loss": loss.detach(), "grad_norm": norm, **metrics}.items()}
            rate = {"samples_per_second": cfg.batch_size * (step - logged) / (now - mark)}
            mark, logged = now, step
            logger.write(step, {**last, **rate, "seconds": spent + now - start})
            bar.set_postfix({k: f"{v:.4g}" for k, v in list(last.items())[:3]})
            if not math.isfinite(last["loss"]):
                raise FloatingPointError(f"{out.name}: the loss is {last['loss']} at step {step}")
        if main and cfg.sample_every and step % cfg.sample_every == 0:
            _draw(stage, ema, out, step, logger)
        if main and cfg.save_every and step % cfg.save_every == 0:
            seconds = spent + time.perf_counter() - start
            save_checkpoint(checkpoint, step, params, ema, optimizers, drawn, seconds)
    bar.close()
    if main:
        save_checkpoint(
            checkpoint, step, params, ema, optimizers, drawn, spent + time.perf_counter() - start
        )
        if cfg.keep:
            torch._foreach_lerp_(list(ema.shadow.values()), begun, cfg.keep)
        if cfg.sample_every:
            _draw(stage, ema, out, step, logger)
        with ema:
            stage.save_models(out / "model")
        logger.close()
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()  # the others would leave while the first one writes
        # A process that ends while its group's threads run may be aborted.
        atexit.register(accelerator.state.destroy_process_group)
    return last


def _draw(stage: Stage, ema: Ema, out: Path, step: int, logger: Logger) -> None:
    folder = out / "samples"
    folder.mkdir(exist_ok=True)
    was_training = stage.training
    stage.eval()
    # Samples have other shapes than batches, and a compilation for each would take longer than they do.
    with ema, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        scalars = stage.draw(folder, step)
    stage.train(was_training)
    if scalars:
        logger.write(step, scalars)


def training_device() -> str:
    """The GPU of this process, by number: a bare "cuda" is the first one to whatever loads files."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def read_yaml(description: str) -> tuple[dict, Path]:
    """Parse `--config FILE --out DIR [key=value ...]`; overrides use dots (`loop.steps=10`).

    Also makes the process's own GPU the current one, when `accelerate launch` started several.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(training_device())
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML of this stage")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/<config name>)")
    parser.add_argument("overrides", nargs="*", help="dotted overrides such as loop.steps=10")
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    for item in args.overrides:
        key, _, value = item.partition("=")
        *path, name = key.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[name] = yaml.safe_load(value)
    return config, args.out or Path("runs") / args.config.stem


def read_config(description: str) -> tuple[dict, LoopConfig, Path]:
    """`read_yaml` for a stage that trains: its settings, those of the loop, its folder."""
    config, out = read_yaml(description)
    known = {f.name for f in fields(LoopConfig)}
    unknown = set(config["loop"]) - known
    if unknown:
        raise SystemExit(f"unknown loop settings {sorted(unknown)}; known: {sorted(known)}")
    loop = LoopConfig(**config["loop"])
    for f in fields(loop):
        if f.type is float:  # YAML reads 7e-4, which has no point, as a word
            setattr(loop, f.name, float(getattr(loop, f.name)))
    torch.manual_seed(loop.seed)  # networks are built next
    return config, loop, out
