"""The settings schema: every door gets the same checks."""

import math

import numpy as np
import pytest

from gap3d_app.errors import InputError
from gap3d_app.settings import SEED_MAX, Settings

NUMBERS = [spec for spec in Settings.specs().values() if spec.kind in ("int", "float")]
BAD = [math.nan, math.inf, -math.inf, None, "12", "", True, [], {}, 10**400, -(10**400), 10**9999, object()]


def test_defaults_are_valid_and_specs_are_complete():
    settings = Settings.validated()
    for spec in Settings.specs().values():
        assert spec.check(getattr(settings, spec.name)) == getattr(settings, spec.name)
        assert spec.label and spec.help.endswith(".") and spec.group in ("run", "sampling", "export")
        assert spec.flag.startswith("--") and "_" not in spec.flag


@pytest.mark.parametrize("spec", NUMBERS, ids=lambda spec: spec.name)
def test_bad_numbers(spec):
    for value in [*BAD, spec.minimum - 1, spec.maximum + 1]:
        with pytest.raises(InputError, match=f"Setting {spec.name} is .*; it must be .* from ") as caught:
            Settings.validated(**{spec.name: value})
        assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)
    for value in (spec.minimum, spec.maximum):
        assert getattr(Settings.validated(**{spec.name: value}), spec.name) == value


@pytest.mark.parametrize("name", ["preset", "texture_size", "unwrap", "formats"])
def test_bad_choices(name):
    for value in [*BAD, "nothing", ["nothing"], 1000]:
        with pytest.raises(InputError, match=f"Setting {name} is "):
            Settings.validated(**{name: value})


def test_types_are_made_plain():
    settings = Settings.validated(seed=12.0, grid_steps=np.int64(5), blend=1, texture_size=512.0,
                                  formats=["ply", "glb", "ply"])
    assert type(settings.seed) is int and type(settings.grid_steps) is int and type(settings.blend) is float
    assert settings.texture_size == 512 and type(settings.texture_size) is int
    assert settings.formats == ("glb", "ply") and settings.as_dict()["formats"] == ["glb", "ply"]
    with pytest.raises(InputError, match="3.5"):
        Settings.validated(seed=3.5)
    assert Settings.validated(seed=SEED_MAX).seed == SEED_MAX


def test_unknown_setting_is_named():
    with pytest.raises(InputError, match="'steps' does not exist; the settings are preset, seed"):
        Settings.validated(steps=3)


def test_preset_values_lie_between_default_and_given():
    presets = {"fast": {"grid_steps": 7, "slat_steps": 6}, "standard": {"grid_steps": 30}}
    fast = Settings.validated(presets, preset="fast", slat_steps=9)
    assert (fast.grid_steps, fast.slat_steps, fast.structure_steps) == (7, 9, 12)
    assert Settings.validated(presets).grid_steps == 30
    with pytest.raises(InputError, match="grid_steps is 0"):
        Settings.validated({"fast": {"grid_steps": 0}}, preset="fast")
