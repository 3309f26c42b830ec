"""Make a 3D model from Python.

    python examples/generate.py "a small red toy airplane" airplane.glb
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # to run from a clone without installing

from gap3d_app import Gap3DPipeline  # noqa: E402

prompt = sys.argv[1] if len(sys.argv) > 1 else "a small red toy airplane"
target = sys.argv[2] if len(sys.argv) > 2 else "airplane.glb"

pipeline = Gap3DPipeline.from_pretrained("gap3d-mini")
settings = pipeline.settings(seed=0, preset="standard")

# Every finished step is an event; `pipeline(prompt, settings=settings)` does the same without them.
for event in pipeline.stages(prompt, settings=settings):
    if event.done:
        print(f"{event.stage:10} {event.seconds:6.2f} s")

asset = event.preview
print("written:", asset.save(target))
asset.save(Path(target).with_suffix(".json"))  # the recipe: the same file can be made again from it
