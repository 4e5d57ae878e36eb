"""``python -m saebench``: the command line, where its program is not on the path."""

import sys

from saebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
