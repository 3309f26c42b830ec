"""Twenty prompts through the embedded weights, every file through gltf-validator."""

import pytest

from gap3d_app import hub
from gap3d_app.pipeline import Gap3DPipeline
from tests.gltf import assert_clean, require_validator, validate_glbs

PROMPTS = (
    "a small red toy airplane", "a blue chair", "a yellow school bus", "a wooden treasure chest", "a white robot dog",
    "a teapot", "a tall lighthouse", "a green armchair", "a striped fish", "a pink donut with sprinkles",
    "a purple guitar", "a grey castle tower", "an orange pumpkin", "a rustic wooden bench", "a tiny black camera",
    "a plaid sofa", "a cactus in a pot", "a shiny gold crown", "a penguin with a scarf", "eine rote Lampe \N{FIRE}",
)
# The file is looked at, not the shape.
QUICK = {"preset": "fast", "grid_steps": 2, "structure_steps": 2, "slat_steps": 2, "formats": ["glb"]}
# What changes how a file is written, beside the defaults.
SMALL = {"target_faces": 1000, "texture_size": 256}
VARIANTS = ({}, SMALL, {**SMALL, "roughness": 0.0, "scale_m": 2.5}, {**SMALL, "unwrap": "xatlas"})

pytestmark = pytest.mark.skipif(
    not (hub.EMBEDDED / "gap3d-mini" / hub.PIPELINE).is_file(), reason="weights/gap3d-mini is not in this checkout"
)


def test_twenty_prompts_give_valid_files(tmp_path):
    require_validator()
    pipeline = Gap3DPipeline.from_pretrained("gap3d-mini", device="cpu")
    paths = []
    for number, prompt in enumerate(PROMPTS):
        asset = pipeline(prompt, **VARIANTS[number % len(VARIANTS)], **QUICK, seed=number)
        paths.append(asset.save(tmp_path / f"{number:02}.glb"))
    assert len({path.read_bytes() for path in paths}) == len(PROMPTS) == 20
    for prompt, report in zip(PROMPTS, validate_glbs(paths), strict=True):
        assert report["info"]["totalTriangleCount"] > 100, prompt
        assert_clean(report)
