"""Run the whole training sequence of gap3d-mini.

    python -m train.mini [--gpus N] [--steps assets stages export] [--only STAGE ...] [overrides]

The commands are those of train/README.md. A stage starts as soon as the stages that it reads are done and a GPU is
free. It has that GPU to itself, so that more GPUs change the time and not the result. A stage that was interrupted
goes on from its checkpoint. One that fails and has a checkpoint goes on from it once; when it fails again, those that
need it are left out and the others finish.
Overrides go to all stages (`loop.batch_size=64`) or to one (`slat_vae:loop.minutes=5`). Output goes to
`runs/<stage>.log`.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from train.checkpoints import find_checkpoint


@dataclass(frozen=True)
class Plan:
    """How a stage is run.

    Attributes:
        needs: stages whose results it reads.
        module: its module in `train`, when not named like the stage.
    """

    needs: tuple[str, ...] = ()
    module: str = ""


STAGES = {
    "image_encoder": Plan(),
    "language_model": Plan(),
    "slat_vae": Plan(),
    "structure_vae": Plan(),
    "probe": Plan(),
    "structure_flow": Plan(("image_encoder", "structure_vae")),
    "grid_alignment": Plan(("image_encoder", "language_model")),
    "slat_flow": Plan(("image_encoder", "slat_vae")),
    "generated_grids": Plan(("grid_alignment",)),
    "structure_tuning": Plan(("structure_flow", "generated_grids"), module="structure_flow"),
    "slat_tuning": Plan(("slat_flow", "generated_grids"), module="slat_flow"),
}
"""In the order in which they start when several could."""

LAST_LINES = 60
"""Of the log of a stage that failed, shown at once; the last twenty are what the launcher adds."""

STEPS = ("assets", "stages", "export")


def pack_commands(count: int, edits: int) -> list[list[str]]:
    """The two packed data sets, made at the same time; the small one by one process."""
    test = "--out data/test --split test --count 500 --edits 150 --seed 1 --workers 1"
    train = f"--out data/train --count {count} --edits {edits}"
    return [[sys.executable, "-m", "train.data.pack", *arguments.split()] for arguments in (train, test)]


def stage_command(stage: str, overrides: list[str]) -> list[str]:
    """`accelerate launch` of one stage; `overrides` may hold those of other stages."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    own = [o.removeprefix(f"{stage}:") for o in overrides if ":" not in o.split("=")[0] or o.startswith(f"{stage}:")]
    module = STAGES[stage].module or stage
    return [*launch, "-m", f"train.{module}", "--config", f"train/configs/mini/{stage}.yaml", *own]


@dataclass
class Schedule:
    """Which stages wait, run and ended, and what the GPUs do.

    Attributes:
        waiting: stages to run, in order of preference.
        gpus: number of GPUs; a machine without counts as one.
        running: stage to the number of its GPU.
        done, failed: stages that ended; `failed` also has those whose needs failed.
        resumed: stages that failed once and went on.
    """

    waiting: list[str]
    gpus: int
    running: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    resumed: set[str] = field(default_factory=set)

    def next(self) -> tuple[str, int] | None:
        """A stage that may start now and its GPU; it counts as running from here on."""
        chosen = set(self.waiting) | set(self.running) | self.done | set(self.failed)
        for stage in list(self.waiting):
            needs = [need for need in STAGES[stage].needs if need in chosen]  # others have run before
            if any(need in self.failed for need in needs):
                self.waiting.remove(stage)
                self.failed.append(stage)
            elif all(need in self.done for need in needs) and (free := self._free()):
                self.waiting.remove(stage)
                self.running[stage] = free[0]
                return stage, free[0]
        return None

    def _free(self) -> list[int]:
        """GPUs on which nothing runs."""
        return sorted(set(range(max(1, self.gpus))) - set(self.running.values()))

    def end(self, stage: str, code: int, resumable: bool = False) -> None:
        """A stage's process ended; one that is resumable waits again at the first failure."""
        del self.running[stage]
        if not code:
            self.done.add(stage)
        elif resumable and stage not in self.resumed:
            self.resumed.add(stage)
            self.waiting.insert(0, stage)
        else:
            self.failed.append(stage)


def run_stages(stages: list[str], gpus: int, overrides: list[str]) -> None:
    """Run `stages`; exits with the names of those that failed or were left out."""
    Path("runs").mkdir(exist_ok=True)
    schedule, processes = Schedule(list(stages), gpus), {}
    while schedule.waiting or processes:
        while (start := schedule.next()) is not None:
            stage, gpu = start
            command = stage_command(stage, overrides)
            visible = {"CUDA_VISIBLE_DEVICES": str(gpu)} if gpus else {}
            with open(f"runs/{stage}.log", "a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | visible)
            processes[stage] = process, time.time()
            print(f"{stage}: started" + (f" on GPU {gpu}" if gpus else ""), flush=True)
        for stage, (process, begin) in list(processes.items()):
            if (code := process.poll()) is not None:
                schedule.end(stage, code, resumable=find_checkpoint(Path(f"runs/{stage}/checkpoint")) is not None)
                del processes[stage]
                print(f"{stage}: exit {code} after {time.time() - begin:.0f} s", flush=True)
                if code:
                    lines = Path(f"runs/{stage}.log").read_text().splitlines()
                    print("\n".join(f"  {line}" for line in lines[-LAST_LINES:]), flush=True)
        time.sleep(0.2)
    if schedule.failed:
        raise SystemExit(f"failed: {', '.join(schedule.failed)}; see runs/{schedule.failed[0]}.log")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--only", nargs="+", choices=STAGES, help="only these stages")
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count())
    parser.add_argument("--count", type=int, default=9000, help="procedural assets")
    parser.add_argument("--edits", type=int, default=18000, help="procedural edit pairs")
    # taken out first: an option with several values would swallow the overrides behind it
    overrides = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-")]
    args, wrong = parser.parse_known_args([a for a in sys.argv[1:] if a not in overrides])
    if wrong:
        parser.error(f"unknown argument {wrong[0]!r}; overrides look like loop.minutes=1 or slat_vae:loop.minutes=1")
    if "assets" in args.steps:
        packing = [subprocess.Popen(command) for command in pack_commands(args.count, args.edits)]
        if any([process.wait() for process in packing]):
            raise SystemExit("the assets could not be packed; the messages above say why")
    if "stages" in args.steps:
        run_stages([s for s in STAGES if not args.only or s in args.only], args.gpus, overrides)
    if "export" in args.steps:
        subprocess.run([sys.executable, "-m", "train.export"], check=True)


if __name__ == "__main__":
    main()
