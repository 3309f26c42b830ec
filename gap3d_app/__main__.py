"""python -m gap3d_app"""

import os
import sys

from gap3d_app.cli import INTERRUPTED, main

if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:
        # All is cleaned up. Python would wait for workers that are within a product, and has been seen never to end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
