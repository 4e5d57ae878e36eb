"""``saebench compare``: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  saebench compare reports/study                        the groups of a run, into reports/study/comparison
  saebench compare reports/gpt2 reports/pythia -o study.md      groups of one name on several models
  saebench compare reports/study --reference faithful   every other source against one
  saebench compare reports/a --group 'faithful/k8=faithful-k8-*' --group 'web/k8=web-k8-*'
                                                        SOURCE/BLOCK=GLOB over names of checkpoints; sources
                                                        are compared where they share a block and a model

Writes the card with comparison.json and plots/ beside it (-o NAME.md: NAME.json and NAME-plots/).
Text outside the markers of a card stays as it is.
"""


def declare(places: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``compare`` to the commands; ``command`` is what makes a parser for one."""
    parser = command(places, "compare", compare, "compare groups of checkpoints (seeds)", EPILOG)
    parser.add_argument("reports", metavar="DIR", nargs="+", help="the --out folder of a run")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="a group by the names of its checkpoints, in place of the run's own; NAME may be SOURCE/BLOCK",
    )
    parser.add_argument("--reference", metavar="GROUP", help="compare every other source with this")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: comparison/README.md in the first DIR"
    )


def compare(values: argparse.Namespace) -> int:
    """Write a comparison card from the reports of runs."""
    from saebench.comparison import parse_group, write_comparison
    from saebench.errors import ConfigError

    folders = [Path(folder) for folder in values.reports]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"the report folder {folder}", "there is none", "Name the --out folder of a run."
            )
    written = write_comparison(
        folders,
        Path(values.output) if values.output else None,
        groups=[parse_group(text) for text in values.group],
        reference=values.reference,
        command=values.command_line,
    )
    for path in written:
        print(f"wrote {path}")
    return 0
