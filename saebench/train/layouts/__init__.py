"""The layouts in which checkpoints are saved, by name: our own and those of other libraries.

``saebench`` is the folder of SAELens for one source, and our own for crosscoders; ``dictionary_learning`` the
folder of its forks for the hub; ``open_interp`` the crosscoder over two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.errors import OutputError
from saebench.sae import SAE
from saebench.train.layouts import dictionary_learning, native, open_interp, saelens
from saebench.train.layouts.content import Content, Layout
from saebench.train.layouts.training_config import TRAINING_FILE

__all__ = ["LAYOUTS", "Content", "Layout", "layout_in", "layout_named"]


def _check_own(sae: SAE) -> None:
    (native if sae.cfg.n_sources > 1 else saelens).check(sae)


def _own(sae: SAE, provenance: Mapping[str, Any]) -> Content:
    return (native if sae.cfg.n_sources > 1 else saelens).content(sae, provenance)


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "saebench",
            saelens.WEIGHT_FILE,
            saelens.CONFIG_FILE,
            frozenset({"d_in", "d_sae"}),
            _check_own,
            _own,
        ),
        Layout(
            dictionary_learning.NAME,
            dictionary_learning.WEIGHT_FILE,
            dictionary_learning.CONFIG_FILE,
            frozenset({"activation_dim", "dict_size"}),
            dictionary_learning.check,
            dictionary_learning.content,
            (TRAINING_FILE,),
        ),
        Layout(
            open_interp.NAME,
            open_interp.WEIGHT_FILE,
            open_interp.CONFIG_FILE,
            frozenset({"d_model", "n_features"}),
            open_interp.check,
            open_interp.content,
        ),
    )
}


def layout_named(name: str) -> Layout:
    """The layout of a name; raises :class:`OutputError` where there is none."""
    if name not in LAYOUTS:
        raise OutputError(
            f"a layout to save in, one of {', '.join(LAYOUTS)}",
            repr(name)[:80],
            "Name one of them.",
        )
    return LAYOUTS[name]


def layout_in(folder: Path) -> Layout | None:
    """The layout of the checkpoint in a folder; None where there is none of ours."""
    return next((layout for layout in LAYOUTS.values() if layout.is_in(folder)), None)
