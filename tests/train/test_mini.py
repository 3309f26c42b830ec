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
    assert begin_all(schedule) == {"image_encoder": 0, "language_model": 1, "slat_vae": 2, "structure_vae": 3}
    schedule.end("structure_vae", 0)
    assert begin_all(schedule) == {"probe": 3}
    schedule.end("image_encoder", 0)
    assert begin_all(schedule) == {"structure_flow": 0}
    schedule.end("slat_vae", 0)
    assert begin_all(schedule) == {"slat_flow": 2}
    schedule.end("probe", 0)
    schedule.end("language_model", 0)
    assert begin_all(schedule) == {"grid_alignment": 1}
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
def test_without_a_second_gpu_one_stage_runs_after_another(gpus):
    schedule, seen = Schedule(list(STAGES), gpus), []
    while schedule.waiting or schedule.running:
        started = begin_all(schedule)
        assert len(started) == 1 and set(started.values()) == {0}
        seen += started
        schedule.end(*started, 0)
    assert set(seen) == set(STAGES) and len(seen) == len(STAGES)
    assert all(seen.index(need) < seen.index(stage) for stage in STAGES for need in STAGES[stage].needs)


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


def test_a_failed_stage_goes_on_once_from_its_checkpoint():
    schedule = Schedule(["slat_flow", "slat_tuning"], 1)
    for _ in range(2):
        assert begin_all(schedule) == {"slat_flow": 0}
        schedule.end("slat_flow", 1, resumable=True)
    assert begin_all(schedule) == {} and schedule.failed == ["slat_flow", "slat_tuning"]


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
    script = "import sys; open(f'{sys.argv[1]}.ran', 'a').write('x'); print('bad luck'); exit(sys.argv[1] == 'probe')"
    monkeypatch.setattr(mini, "stage_command", lambda stage, *_: [sys.executable, "-c", script, stage])
    with pytest.raises(SystemExit, match=r"failed: probe; see runs/probe\.log"):
        run_stages(["probe", "structure_vae"], 0, [])
    assert (tmp_path / "runs/probe.log").read_text() == "bad luck\n"
    assert {p.stem for p in tmp_path.glob("*.ran")} == {"probe", "structure_vae"}
    (tmp_path / "runs/probe/checkpoint").mkdir(parents=True)
    with pytest.raises(SystemExit, match="failed: probe"):
        run_stages(["probe"], 0, [])
    assert (tmp_path / "probe.ran").read_text() == "xxx"  # once before, now twice
    told = capsys.readouterr().out
    assert "structure_vae: exit 0" in told and told.count("probe: exit 1") == 3 and "  bad luck" in told


def test_overrides_may_stand_behind_a_list_of_stages(monkeypatch):
    seen = []
    monkeypatch.setattr(mini, "run_stages", lambda *args: seen.append(args))
    monkeypatch.setattr(sys, "argv", "mini --steps stages --gpus 2 --only probe slat_vae loop.steps=3".split())
    mini.main()
    assert seen == [(["slat_vae", "probe"], 2, ["loop.steps=3"])]


def test_an_override_without_a_value_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", "mini loop.steps --steps stages".split())
    with pytest.raises(SystemExit):
        mini.main()
    assert "overrides look like loop.minutes=1" in capsys.readouterr().err
