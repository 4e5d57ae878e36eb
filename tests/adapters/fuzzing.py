"""Mutates every golden checkpoint and loads what comes out: ``python -m tests.adapters.fuzzing``.

Runs in a process of its own, with a limit on its address space (an allocation of gigabytes ends in
``MemoryError`` or torch's ``RuntimeError``, none of our errors) and an audit hook that ends it on the
first attempt to start a process, to open a file for writing, to connect, or to run or import code.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from saebench.errors import SaebenchError
from saebench.inspection import Inspection
from saebench.loading import inspect, load_sae
from saebench.sae import Dictionary
from tests.adapters import mutations
from tests.adapters.goldens import given as given_to
from tests.adapters.goldens import golden_paths

MEMORY = (
    2**30
)  # bytes that loading checkpoints of a few kilobytes may map beyond what is mapped now
LARGE = 1e6  # above it, float32 products may overflow without anybody being wrong
FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "exec",
    "import",
    "socket.connect",
    "pickle.find_class",
    "os.remove",
    "os.rename",
    "shutil.rmtree",
    "ctypes.dlopen",
)
CODECS = ("raw-unicode-escape", "unicode-escape", "latin-1", "ascii", "cp437", "idna", "utf-16")

watching = False
counts: Counter[str] = Counter()


class Wrong(Exception):
    """Something that must not happen, with the mutation that made it."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """End the process when checkpoint code does what no checkpoint may make it do."""
    if not watching:
        return
    writing = event == "open" and arguments[1] is not None and set("wax+") & set(str(arguments[1]))
    known = event == "import" and arguments[0] in sys.modules
    if writing or (event in FORBIDDEN and not known):
        sys.stderr.write(f"{event} {arguments!r:.300}\n")
        traceback.print_stack()
        sys.stderr.flush()
        os._exit(7)


def check(path: Path, arguments: dict[str, Any]) -> None:
    """Outline, load and encode; raises anything but our own errors, which are counted."""
    look(lambda: shown(inspect(path, headers_only=True, **arguments)), "outlined")
    look(lambda: used(load_sae(path, **arguments)), "loaded")
    look(lambda: shown(inspect(path, **arguments)), "inspected")


def look(action: Callable[[], None], outcome: str) -> None:
    global watching
    watching = True
    try:
        action()
        counts[outcome] += 1
    except SaebenchError as error:
        str(error).encode()
        counts["refused"] += 1
    finally:
        watching = False


def shown(found: Inspection) -> None:
    found.to_text()
    json.dumps(found.to_json(), allow_nan=False)


def used(sae: Dictionary) -> None:
    """Codes and output of a tiny input, finite unless the weights are so large that they cannot be."""
    cfg = sae.cfg
    if cfg.width_in > 2**16:
        raise Wrong(f"a width of {cfg.width_in} from files of a few kilobytes")
    lead = (1, 3) if sae.needs_sequences else (3,)
    sources = (cfg.n_sources,) if cfg.n_sources > 1 else ()
    x = torch.randn(*lead, *sources, cfg.d_in, generator=torch.Generator().manual_seed(0))
    if sae.pending:
        sae.calibrate(x.reshape(-1, cfg.width_in))
    codes = sae.encode(x)
    if codes.shape != (*lead, cfg.d_sae):
        raise Wrong(f"codes of shape {list(codes.shape)} for d_sae {cfg.d_sae}")
    output = sae(x)
    largest = max((float(b.abs().max()) for b in sae.buffers() if b.numel()), default=0.0)
    if largest < LARGE and not (codes.isfinite().all() and output.isfinite().all()):
        raise Wrong("codes or output that are not finite")


def main(root: Path, examples: int, start: int) -> None:
    warnings.simplefilter("ignore")
    for codec in CODECS:
        "".encode(codec)  # imported when first used, which the hook would report
    for path in golden_paths():
        check(path, given_to(path))
    if counts["refused"]:
        raise Wrong(f"{counts['refused']} golden checkpoints are refused as they are")
    counts.clear()
    sys.addaudithook(watch)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.sampled_from(golden_paths()), mutations.any_of_them())
    def fuzz(golden: Path, changes: list[mutations.Change]) -> None:
        folder = root / golden.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden, folder)
        arguments = given_to(golden)
        for change in changes:
            arguments = change(folder, arguments)
        check(folder, arguments)

    fuzz()
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
