"""Wiring references, models and token streams to passes, and what they found to records.

``run`` opens and checks what a configuration names; ``jobs`` runs the parts of it over one pass of the
run's own text: ``main_pass`` measures checkpoints there, ``fake_features`` and ``probing`` on other
texts, ``seeds`` compares the checkpoints of a group. ``records`` writes down what was measured on what.
"""

from __future__ import annotations

from saebench.measure.measuring import Results, measure
from saebench.measure.run import Run, Target, prepare

__all__ = ["Results", "Run", "Target", "measure", "prepare"]
