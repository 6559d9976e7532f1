"""`python -m mmhicra` is `mmhicra`."""

import sys

from mmhicra.cli import main

if __name__ == "__main__":
    sys.exit(main())
