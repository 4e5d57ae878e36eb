"""Which errors say something about a variant; all others are mistakes of this package and are raised."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from types import FrameType

import torch

from saebench.errors import ModelError, SaebenchError
from saebench.models import LanguageModel

FOREIGN = ("transformers", "bitsandbytes", "accelerate", "safetensors", "tokenizers", "torchao")
LACKING = (  # how torch says that a device or a build lacks what was asked for, in lower case
    *("not implemented for", "no kernel image", "could not run", "is not supported"),
    *("cuda error", "cuda driver", "cublas", "cudnn", "cusparse", "hip error"),
)
# older releases of torch have no AcceleratorError, and raise RuntimeError in its place
NO_KERNEL = (NotImplementedError, getattr(torch, "AcceleratorError", NotImplementedError))


def is_of_loading(error: Exception) -> bool:
    """Whether opening a variant failed because of its files, the device, or a package that reads them."""
    if isinstance(error, SaebenchError | OSError | ImportError) or _lacks_kernel(error):
        return True
    return _raised_in(error) in FOREIGN


def is_of_forward(error: Exception, models: Iterable[LanguageModel]) -> bool:
    """Whether reading text failed in the forward of one of ``models``, for want of a kernel or memory."""
    if isinstance(error, ModelError):
        return True
    within = {id(frame.f_locals.get("self")) for frame in _frames(error)}
    if not within & {id(model) for model in models}:
        return False
    return _lacks_kernel(error) or _raised_in(error) == "bitsandbytes"


def _lacks_kernel(error: Exception) -> bool:
    if isinstance(error, NO_KERNEL):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(text in said for text in LACKING)


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _raised_in(error: Exception) -> str:
    """The package whose code raised, where torch and the standard library only pass on what they got."""
    known = (*FOREIGN, "saebench")
    packages = [str(frame.f_globals.get("__name__")).split(".")[0] for frame in _frames(error)]
    return next((name for name in reversed(packages) if name in known), "")
