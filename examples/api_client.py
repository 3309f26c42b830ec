"""Make a 3D model through the page's API; start the page first with `make app`.

    python examples/api_client.py "a small red toy airplane"
    python examples/api_client.py "the same but blue" --image picture.png --url http://127.0.0.1:7860
"""

import argparse
import json
import shutil

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("prompt", nargs="?", default="a small red toy airplane")
parser.add_argument("--image", help="PNG, JPEG or WebP picture")
parser.add_argument("--url", default="http://127.0.0.1:7860", help="address of the page (%(default)s)")
parser.add_argument("--output", default="model.glb", help="file to write (%(default)s)")
options = parser.parse_args()

client = Client(options.url, verbose=False, analytics_enabled=False)
glb, recipe = client.predict(
    prompt=options.prompt,
    image=handle_file(options.image) if options.image else None,
    preset="standard",
    seed=0,
    api_name="/generate",
)
shutil.copyfile(glb, options.output)
print(json.dumps(recipe, indent=2))
print("written:", options.output)
