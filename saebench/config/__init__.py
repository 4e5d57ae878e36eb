"""What to measure and what to demand: files, options, and the limits that ship.

``reading`` finds a file and merges options over it, ``schema`` turns its tables into frozen dataclasses
(read strictly by ``tables``), ``defaults`` holds the shipped limits, ``options`` is what the command line
and the pytest plugin have in common.
"""

from saebench.config.reading import (
    FILE_NAME,
    configured_gates,
    find_config,
    gates_for,
    group_gates,
    load_config,
    merge_options,
)
from saebench.config.schema import Config, DataSpec, GroupSpec, ModelSpec, SAESpec

__all__ = [
    "FILE_NAME",
    "Config",
    "DataSpec",
    "GroupSpec",
    "ModelSpec",
    "SAESpec",
    "configured_gates",
    "find_config",
    "gates_for",
    "group_gates",
    "load_config",
    "merge_options",
]
