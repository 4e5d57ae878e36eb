"""Write tests/oracles/golden/ again: ``python tests/oracles/regenerate.py [FAMILY ...]``.

With the Python of the environment that has the peers; the families written out by hand need torch only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIZES = ["--d-in", "8", "--d-sae", "20", "--rows", "6"]

if __name__ == "__main__":
    families = sys.argv[1:] or [path.stem.removeprefix("make_") for path in HERE.glob("make_*.py")]
    for family in families:
        out = HERE / "golden" / family
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, str(HERE / f"make_{family}.py"), str(out), *SIZES, "--golden"]
        subprocess.run(command, check=True)
