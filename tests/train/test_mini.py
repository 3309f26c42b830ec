"""The order in which the training sequence starts its stages, and what happens when one fails."""

import sys

import pytest

from train import mini
from train.mini import STAGES, Schedule, run_stages, stage_command


def begin_all(schedule: Schedule) -> dict[str, int]:
    """Everything that may start now."""
    return dict(iter(schedule.next, None))


def test_four_gpus():
    schedule = Schedule(list(STAGES), 4)
    first = begin_all(schedule)
    assert first == {
        "image_encoder": 0, "language_model": 1, "slat_vae": 2, "structure_vae": 3, "probe": 3,
    }  # fmt: skip
    for stage in ("structure_vae", "image_encoder"):
        schedule.end(stage, 0)
    assert begin_all(schedule) == {"structure_flow": 0}
    schedule.end("probe", 0)
    schedule.end("language_model", 0)
    assert begin_all(schedule) == {"grid_alignment": 1}
    schedule.end("slat_vae", 0)
    assert begin_all(schedule) == {"slat_flow": 2}
    schedule.end("grid_alignment", 0)
    assert begin_all(schedule) == {"generated_grids": 1}
    for stage in ("generated_grids", "slat_flow"):
        schedule.end(stage, 0)
    assert begin_all(schedule) == {"slat_tuning": 1}
    schedule.end("structure_flow", 0)
    assert begin_all(schedule) == {"structure_tuning": 0}
    for stage in list(schedule.running):
        schedule.end(stage, 0)
    assert not schedule.waiting and schedule.done == set(STAGES)


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_gpu_runs_one_large_stage_at_a_time(gpus):
    """Minutes are those of a whole GPU; only small stages share it."""
    schedule, seen = Schedule(list(STAGES), gpus), []
    while schedule.waiting or schedule.running:
        seen.append(set(begin_all(schedule)) or set(schedule.running))
        for stage in list(schedule.running):
            schedule.end(stage, 0)
    shared = [group for group in seen if len(group) > 1]
    assert shared == [{"structure_vae", "probe"}] and {stage for group in seen for stage in group} == set(STAGES)


def test_what_needs_a_failed_stage_is_left_out():
    schedule = Schedule(list(STAGES), 5)
    begin_all(schedule)
    for stage in list(schedule.running):
        schedule.end(stage, int(stage == "slat_vae"))
    assert set(begin_all(schedule)) == {"structure_flow", "grid_alignment"}
    assert schedule.failed == ["slat_vae", "slat_flow", "slat_tuning"]
    for stage in ("structure_flow", "grid_alignment"):
        schedule.end(stage, 0)
    assert set(begin_all(schedule)) == {"generated_grids"}


def test_a_stage_alone_takes_what_ran_before():
    assert begin_all(Schedule(["slat_flow"], 2)) == {"slat_flow": 0}


def test_commands():
    overrides = ["loop.steps=3", "probe:width=8", "slat_vae:loop.minutes=5"]
    assert stage_command("probe", overrides)[-2:] == ["loop.steps=3", "width=8"]
    command = stage_command("slat_vae", overrides)
    assert command[-2:] == ["loop.steps=3", "loop.minutes=5"]
    assert command[command.index("--num_processes") + 1] == "1"


def test_processes_run_and_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = "import sys; open(sys.argv[1] + '.ran', 'w'); print('bad luck'); sys.exit(sys.argv[1] == 'probe')"
    monkeypatch.setattr(mini, "stage_command", lambda stage, *_: [sys.executable, "-c", script, stage])
    with pytest.raises(SystemExit, match=r"failed: probe; see runs/probe\.log"):
        run_stages(["probe", "structure_vae"], 0, [])
    assert (tmp_path / "runs/probe.log").read_text() == "bad luck\n"
    assert {p.stem for p in tmp_path.glob("*.ran")} == {"probe", "structure_vae"}
    assert "structure_vae: exit 0" in capsys.readouterr().out
