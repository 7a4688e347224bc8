"""``python -m numbarnn.bench`` does what ``numbarnn bench`` does."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
