"""The page: everything that needs gradio lives here."""

import os

# Read by gradio when it is imported; set here so that no host is contacted whatever imports this package.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from gap3d_app.ui import gpu  # noqa: E402, F401  first: what lends graphics cards must come before CUDA starts
from gap3d_app.ui.page import build_page  # noqa: E402
from gap3d_app.ui.server import launch  # noqa: E402

__all__ = ["build_page", "launch"]
