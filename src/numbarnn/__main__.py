"""Run the command line with ``python -m numbarnn``."""

import sys

from numbarnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
