"""``python -m saebench.cli``."""

import sys

from saebench.cli import main

sys.exit(main())
