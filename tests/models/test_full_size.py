"""Full-size TRELLIS networks, built without memory, have exactly the public keys and shapes."""

import json
from pathlib import Path

import pytest
import torch

import gap3d_app.models
from gap3d_app.models.checkpoint import build_model, read_config
from tests.conformance.key_lists import wrong_entries

CONFIGS = Path(gap3d_app.models.__file__).parent / "configs"
PARAMETERS = {
    "ss_enc_conv3d_16l8_fp16": 59_298_192,
    "ss_dec_conv3d_16l8_fp16": 73_671_201,
    "ss_flow_img_dit_L_16l8_fp16": 555_543_560,
    "ss_flow_txt_dit_B_16l8_fp16": 156_726_536,
    "ss_flow_txt_dit_L_16l8_fp16": 542_960_648,
    "ss_flow_txt_dit_XL_16l8_fp16": 975_440_648,
    "slat_flow_img_dit_L_64l8p2_fp16": 600_432_520,
    "slat_flow_txt_dit_B_64l8p2_fp16": 185_364_616,
    "slat_flow_txt_dit_L_64l8p2_fp16": 587_849_608,
    "slat_flow_txt_dit_XL_64l8p2_fp16": 1_073_414_408,
    "slat_enc_swin8_B_64l8_fp16": 85_817_104,
    "slat_dec_gs_swin8_B_64l8gs32_fp16": 85_369_024,
    "slat_dec_rf_swin8_B_64l8r16_fp16": 85_369_024,
    "slat_dec_mesh_swin8_B_64l8m256c_fp16": 90_926_693,
}
"""Learned values of every network, from the specification."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        model = build_model(*read_config(CONFIGS / name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_keys_shapes_and_half_precision_entries(shared_dir: Path) -> None:
    lists = json.loads((shared_dir / "conformance" / "trellis_state_dicts.json").read_text())
    for name in PARAMETERS:
        class_name, args = read_config(CONFIGS / name)
        entry = {**lists[name.removesuffix("_fp16")], "config_class": class_name, "args": args}
        assert wrong_entries(entry) == [], name
