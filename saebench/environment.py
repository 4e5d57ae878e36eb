"""The versions that a result depends on, as plain JSON values for records and checkpoints."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from saebench._version import __version__

PACKAGES = ("transformers", "safetensors", "huggingface_hub", "datasets", "numpy", "pytest")


def environment() -> dict[str, str]:
    """Versions of Python, saebench, torch with its build (``2.13.0+cpu``), and other packages here."""
    import torch

    found = {"python": python_version(), "saebench": __version__, "torch": str(torch.__version__)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
