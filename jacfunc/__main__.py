"""``python -m jacfunc``: the founding example, checked and timed; exit status 1 if a check fails."""

import sys

from ._demo.command import main

if __name__ == "__main__":
    sys.exit(main())
