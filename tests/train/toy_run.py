"""A toy stage trained for three steps; started twice at once by test_two_processes.

    torchrun --nproc_per_node 2 -m tests.train.toy_run OUT
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from torch import Tensor, nn

from train.loop import LoopConfig, Stage, run


class ToyStage(Stage):
    """A linear layer that learns to add three numbers."""

    trained = ("net",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)
        self.seen: list[float] = []

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Random numbers and their sums."""
        x = torch.randn(batch_size, 3, generator=generator)
        self.seen.append(x[0, 0].item())
        return {"x": x, "y": x.sum(1, keepdim=True)}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error."""
        return (self.net(batch["x"]) - batch["y"]).square().mean(), {}

    def save_models(self, folder: Path) -> None:
        """Nothing that the app would load."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_by").write_text(str(PartialState().process_index))


if __name__ == "__main__":
    out, stage = Path(sys.argv[1]), ToyStage()
    run(stage, LoopConfig(steps=3, batch_size=4, log_every=1, warmup=1), out)
    state = PartialState()
    report = {"processes": state.num_processes, "seen": stage.seen, "weights": stage.net.weight.tolist()}
    (out / f"rank{state.process_index}.json").write_text(json.dumps(report))
