"""python -m gap3d_app"""

import sys

from gap3d_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
