"""What a training run keeps: the moving average of its parameters, and checkpoints that it resumes from.

Checkpoints are safetensors and one JSON (weights, average, optimiser and random state), written to a temporary name and
renamed, the older one kept until then, so that a run stopped at any moment resumes from a whole one.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Ema:
    """Moving average of named parameters with warm-up: decay = min(decay, (1 + n) / (10 + n))."""

    def __init__(self, params: dict[str, nn.Parameter], decay: float):
        self.params, self.decay, self.updates = params, decay, 0
        self.shadow = {k: p.detach().clone().float() for k, p in params.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(
            list(self.shadow.values()), [p.detach().float() for p in self.params.values()], 1 - decay
        )

    def __enter__(self) -> None:
        """Swap the averaged weights in."""
        self.backup = {k: p.detach().clone() for k, p in self.params.items()}
        for k, p in self.params.items():
            p.data.copy_(self.shadow[k])

    def __exit__(self, *_) -> None:
        for k, p in self.params.items():
            p.data.copy_(self.backup[k])
        del self.backup


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": value if torch.is_tensor(value) else torch.tensor(value)
        for i, entry in state.items()
        for key, value in entry.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    state: dict[int, dict] = {}
    for key, value in flat.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _global_random() -> dict[str, Tensor]:
    """States of torch's own generators, which noise inside networks comes from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_aside(folder: Path) -> Path:
    """Name of the older checkpoint while the newer one takes its place."""
    return folder.with_name(folder.name + ".old")


def find_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint that `folder` stands for: itself, or the one set aside by an interrupted save."""
    return next((path for path in (folder, _set_aside(folder)) if path.is_dir()), None)


def save_checkpoint(folder: Path, step: int, params, ema: Ema, optimizers, generator, seconds: float) -> None:
    """Write everything a resume needs to `folder` (safetensors and one JSON), replacing the older one.

    At every moment either `folder` or the older one set aside is whole; `find_checkpoint` tells which.
    """
    temp, old = folder.with_name(folder.name + ".part"), _set_aside(folder)
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    save_file({k: p.detach().contiguous() for k, p in params.items()}, temp / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in ema.shadow.items()}, temp / "ema.safetensors")
    for i, optimizer in enumerate(optimizers):
        flat = {k: v.contiguous() for k, v in _flatten_optimizer(optimizer).items()}
        save_file(flat, temp / f"optimizer{i}.safetensors")
    save_file({"state": generator.get_state(), **_global_random()}, temp / "random.safetensors")
    (temp / "state.json").write_text(
        json.dumps({"step": step, "ema_updates": ema.updates, "seconds": seconds})
    )
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(temp, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, params, ema: Ema, optimizers, generator) -> tuple[int, float]:
    """Restore what `save_checkpoint` wrote; returns (next step, seconds spent so far)."""
    state = json.loads((folder / "state.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    shadow = load_file(folder / "ema.safetensors")
    for key, p in params.items():
        p.data.copy_(weights[key])
        ema.shadow[key].copy_(shadow[key])
    for i, optimizer in enumerate(optimizers):
        path = folder / f"optimizer{i}.safetensors"
        if path.exists():
            _load_optimizer(optimizer, load_file(path))
    random_file = folder / "random.safetensors"
    if random_file.exists():
        states = load_file(random_file)
        generator.set_state(states["state"])
        if "cpu" in states:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
    ema.updates = state["ema_updates"]
    return state["step"], state["seconds"]
