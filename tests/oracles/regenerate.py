"""Write tests/oracles/golden/ again: ``python tests/oracles/regenerate.py`` with the peers installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIZES = ["--d-in", "8", "--d-sae", "20", "--rows", "6"]

if __name__ == "__main__":
    for peer in ("saelens", "dictionary_learning"):
        out = HERE / "golden" / peer
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, str(HERE / f"make_{peer}.py"), str(out), *SIZES, "--golden"]
        subprocess.run(command, check=True)
