"""Run the whole training sequence of gap3d-mini, stages of one group side by side.

    python -m train.mini [--groups 0 1 2 3] [stage overrides such as loop.minutes=1]

The commands are those of train/README.md; a stage that has finished or was interrupted resumes from its
checkpoint. Output of every stage goes to `runs/<stage>.log`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

GROUPS = {
    1: ("image_encoder", "language_model", "structure_vae", "slat_vae", "probe"),
    2: ("structure_flow", "slat_flow", "grid_alignment"),
}


def pack_commands(count: int, edits: int) -> list[list[str]]:
    """The two packed data sets."""
    base = [sys.executable, "-m", "train.data.pack"]
    return [
        [*base, "--out", "data/train", "--count", str(count), "--edits", str(edits)],
        [*base, "--out", "data/test", "--split", "test", "--count", "500", "--edits", "150", "--seed", "1"],
    ]


def stage_command(stage: str, overrides: list[str]) -> list[str]:
    """`accelerate launch` of one stage."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "-m"]
    config = f"train/configs/mini/{stage}.yaml"
    return [*launch, f"train.{stage}", "--config", config, *overrides]


def run_group(stages: tuple[str, ...], overrides: list[str]) -> None:
    """Start the stages together; wait for all; stop with the name of the first that failed."""
    Path("runs").mkdir(exist_ok=True)
    running = {}
    for stage in stages:
        log = open(f"runs/{stage}.log", "a")  # noqa: SIM115 - closed when the process ends
        command = stage_command(stage, overrides)
        running[stage] = (subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), log, time.time())
    failed = []
    for stage, (process, log, start) in running.items():
        code = process.wait()
        log.close()
        print(f"{stage}: exit {code} after {time.time() - start:.0f} s", flush=True)
        failed += [stage] * (code != 0)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see runs/{failed[0]}.log")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--stages", nargs="+", help="only these of the chosen groups")
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--edits", type=int, default=3000)
    args, overrides = parser.parse_known_args()
    for group in args.groups:
        if group == 0:
            for command in pack_commands(args.count, args.edits):
                subprocess.run(command, check=True)
        elif group == 3:
            subprocess.run([sys.executable, "-m", "train.export"], check=True)
        else:
            wanted = tuple(s for s in GROUPS[group] if not args.stages or s in args.stages)
            run_group(wanted, overrides)


if __name__ == "__main__":
    main()
