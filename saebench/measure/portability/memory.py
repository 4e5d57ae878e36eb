"""How many variants go into memory together: what each is likely to take, against what is free.

Both are estimates on the careful side. Too few at once cost passes of the reference; too many cost the run,
since a process that takes too much memory on a CPU is killed without a word.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from saebench.errors import ModelError
from saebench.models import Located
from saebench.models.regimes import choose
from saebench.precision import parse_precision

KEPT_FREE = 0.25  # of free memory: activations, sums, and what else the machine does
MEMORY_FILE = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # the limit of a container, below that of the machine


def needed(located: Located, precision: str, device: torch.device) -> int:
    """The bytes that a model of these files takes in a regime, at most.

    Files count as large as they are, and more where numbers become wider: 16-bit files double in
    float32, also under a regime of fewer bits whose weights are held dequantised. Files that do not say
    their type count as 16-bit ones.
    """
    asked = parse_precision(precision)
    size = sum(path.stat().st_size for path in located.files)
    try:
        if choose(asked, device).backend.startswith("bitsandbytes"):
            return size  # which quantises one tensor after the other
    except ModelError:  # the regime is not to be had: opening it says why
        return size
    wide = 4 if asked.base == "int8" else _bytes_of(getattr(torch, asked.compute))
    return size * max(1, wide // _bytes_of(_type_of(located)))


def free(device: torch.device) -> int | None:
    """The bytes that models can still take on a device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return None
    known = [size for size in (_of_machine(), _of_group()) if size is not None]
    return min(known, default=None)


@dataclass
class Room:
    """The bytes that are left for variants on a device; None where that is not known, and all fit."""

    device: torch.device
    left: int | None

    @classmethod
    def on(cls, device: torch.device) -> Room:
        """What variants may fill of the free memory of a device."""
        found = free(device)
        return cls(device, None if found is None else int((1 - KEPT_FREE) * found))

    def holds(self, located: Located, precision: str) -> bool:
        """Whether one more model is likely to fit."""
        return self.left is None or needed(located, precision, self.device) <= self.left

    def take(self, located: Located, precision: str) -> None:
        """Count a model that is in memory now."""
        if self.left is not None:
            self.left -= needed(located, precision, self.device)


def _type_of(located: Located) -> torch.dtype:
    """The type of the numbers in the files, as the config says; float16 where it does not."""
    kind = getattr(located.config.get_text_config(), "dtype", None)
    return kind if isinstance(kind, torch.dtype) else torch.float16


def _bytes_of(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()


def _of_machine() -> int | None:
    """What the kernel calls available, or else the pages that nothing uses."""
    try:
        lines = dict(line.split(":", 1) for line in MEMORY_FILE.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_group() -> int | None:
    """What is left of a container's limit, file pages that can be dropped included; None without one."""
    try:
        limit = int((GROUP / "memory.max").read_text())  # "max" where there is none
        taken = int((GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - taken + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
