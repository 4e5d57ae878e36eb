"""Gates: a measurement and a limit make a verdict. ``limits`` is the grammar, ``judging`` the rule."""

from saebench.gates.judging import Gate, Status, Verdict, Waiver, judge, judge_record, shown
from saebench.gates.limits import Limit, parse_limit

__all__ = [
    "Gate",
    "Limit",
    "Status",
    "Verdict",
    "Waiver",
    "judge",
    "judge_record",
    "parse_limit",
    "shown",
]
