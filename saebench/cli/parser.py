"""The commands of ``saebench`` with their options and examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from saebench._version import __version__
from saebench.cli import commands, compare, complete, generate, label
from saebench.config.options import OPTIONS, add_options
from saebench.settings import ROLES, SETTINGS

USAGE_ERROR = 4  # as pytest's

EPILOG = """\
examples:
  saebench demo                                        the whole line on what ships with saebench
  saebench inspect hf:org/repo@main:layer_12           what a checkpoint is, without a model
  saebench run saes/a --model gpt2 --data texts.jsonl  measure, gate, write the card
  saebench plan saes/ --model gpt2 --data texts.jsonl  what a run would do, and how long it takes
  saebench train recipe.toml                           make a checkpoint
  saebench generate gpt2 --tokens 1_000_000 --out own  text that the model samples itself, as data
  saebench complete gpt2 --prompts p.jsonl --out c.jsonl  completions of prompts, at several seeds
  saebench label c.jsonl --rules r.toml --out l.jsonl  classes by keyword rules, agreement of judges
  saebench compare reports/a                           groups of checkpoints (seeds) against each other
  saebench card reports/a -o README.md                 write the card again from its records

exit codes are pytest's: 0 all gates passed, 1 some failed, 2 interrupted, 4 usage (also: nothing measured)
"""
RUN_EPILOG = """\
examples:
  saebench run saes/topk-s0 --model ./model --data heldout.jsonl --out reports/topk
  saebench run saes/ --model ./model --data heldout.jsonl        every checkpoint in the folder, one pass
  saebench run --config saebench.toml                            everything from a file
  saebench run saes/a --model m --data d --gate 'fve >= 0.8' --gate 'l0 = 60..70' --confidence
  saebench run sae.npz --model m --data d --set k=32             what the files leave open
  saebench run sae.npz --model m --data d --map encoder=W_up     which tensor is which
  saebench run saes/ --model m --data d --suite seeds --group 'topk=topk-s*'     seeds against each other
  saebench run saes/a --model m --data d --suite fake_features --fake unit=sequence
  saebench run saes/a --model m --data d --suite probing --task sst2 --task labelled/part
  saebench run --config saebench.toml -- -k fve -n 2             what follows -- goes to pytest

Running again with other limits measures nothing again: records are kept in OUT/records.
"""
PLAN_EPILOG = """\
examples:
  saebench plan saes/ --model ./model --data heldout.jsonl       checkpoints, gates, passes, an estimate
  saebench plan --config saebench.toml                           as `saebench run` would run it
  saebench plan --config saebench.toml --sequences 64            what a short try would cost

Opens checkpoints, model and data, so that what does not fit together shows now; runs no batch.
"""
DEMO_EPILOG = """\
examples:
  saebench demo                      report in saebench-demo/README.md
  saebench demo --out reports/demo
  saebench demo -- -k fve            what follows -- goes to pytest

No network, no download: the model, the text and the four SAEs ship with saebench.
"""
CARD_EPILOG = """\
examples:
  saebench card reports/mine                      write reports/mine/README.md again
  saebench card reports/mine -o path/README.md    into a card you have written: text and front matter
                                                  outside the two markers stay as they are
"""
INSPECT_EPILOG = """\
examples:
  saebench inspect saes/topk-s0
  saebench inspect hf:org/repo@0123abc:layer_12/width_16k --json
  saebench inspect runs/ae_dir --allow-pickle          dictionary_learning's ae.pt
  saebench inspect sae.pt --allow-pickle --set activation=topk --set k=32
                                                       what the files leave open; errors say what that is
"""
TRAIN_EPILOG = """\
example recipe:
  model = "path/or/hub-id"
  data = "train.jsonl"
  held_out = "heldout.jsonl"
  site = "blocks.2.hook_resid_pre"
  architecture = "topk"          # or "batchtopk"
  d_sae = 1024
  k = 16
  tokens = 2_000_000
  out = "saes/topk-s0"

example recipe of two models (one pass over each for all SAEs):
  model = "base-model"                    # model 0
  others = ["fine-tuned-model"]           # model 1
  data = "train.jsonl"
  held_out = "heldout.jsonl"
  site = "blocks.2.hook_resid_post"
  architecture = "batchtopk"
  d_sae = 1024
  k = 16
  tokens = 2_000_000

  [[sae]]
  reads = "difference_ftb"                # a difference SAE: model 1 minus model 0
  out = "saes/difference"

  [[sae]]
  reads = "models"                        # a crosscoder over both models
  out = "saes/crosscoder"

Says how far it is on stderr, and a line about each SAE on stdout when all are trained.
Every key is documented in saebench.train.recipe; an unknown one is an error that names the nearest.
"""


class _Parser(argparse.ArgumentParser):
    """Ends with pytest's exit code where arguments are wrong: argparse's own means interrupted there."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message on stderr, and exit."""
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command's ``handler`` gives the exit code."""
    parser = _Parser(
        prog="saebench",
        description="The test suite for sparse-autoencoder checkpoints.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"saebench {__version__}")
    places = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(
        places,
        "demo",
        commands.demo,
        "measure, gate and write up the shipped checkpoints",
        DEMO_EPILOG,
    )
    demo.add_argument(
        "--out", default="saebench-demo", metavar="DIR", help="default: saebench-demo"
    )

    for name, handler, summary, epilog in (
        ("run", commands.run, "measure checkpoints, gate them, write the report", RUN_EPILOG),
        (
            "plan",
            commands.plan,
            "say what a run would do and roughly how long it takes",
            PLAN_EPILOG,
        ),
    ):
        command = _command(places, name, handler, summary, epilog)
        command.add_argument(
            "saes", nargs="*", metavar="REF", help="checkpoint: folder or hf:org/repo@rev:path"
        )
        command.add_argument("--config", metavar="FILE", help="saebench.toml or pyproject.toml")
        add_options(command.add_argument)

    epilog = INSPECT_EPILOG + _table("settings (--set NAME=VALUE)", SETTINGS)
    epilog += _table("roles of tensors (--map ROLE=TENSOR)", ROLES)
    inspect = _command(places, "inspect", commands.inspect, "say what a checkpoint is", epilog)
    inspect.add_argument("ref", metavar="REF")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument(
        "--headers-only",
        action="store_true",
        help="read no matrix, of files of many gigabytes; from the hub the weights are fetched first",
    )
    for option in OPTIONS:
        if option.keyword in ("site", "allow_pickle", "settings", "tensors"):
            given = {"default": None, **option.settings}
            inspect.add_argument(f"--{option.flag}", dest=option.keyword, help=option.help, **given)

    train = _command(
        places,
        "train",
        commands.train,
        "train TopK or BatchTopK SAEs, difference SAEs and crosscoders",
        TRAIN_EPILOG,
    )
    train.add_argument(
        "recipe", metavar="RECIPE", nargs="+", help="TOML file; several share one stream"
    )
    train.add_argument(
        "--overwrite", action="store_true", help="replace a checkpoint that is there"
    )

    card = _command(places, "card", commands.card, "write the model card from records", CARD_EPILOG)
    card.add_argument("reports", metavar="DIR", help="the --out folder of a run")
    card.add_argument("-o", "--output", metavar="FILE", help="default: DIR/README.md")
    compare.declare(places, _command)
    generate.declare(places, _command)
    complete.declare(places, _command)
    label.declare(places, _command)
    return parser


def _table(title: str, items: Mapping[str, str]) -> str:
    """Names and what they mean, as a part of a command's help."""
    lines = [f"  {name:<19} {text}" for name, text in items.items()]
    return "\n".join(["", f"{title}:", *lines, ""])


def _command(
    places: Any,
    name: str,
    handler: Callable[[argparse.Namespace], int],
    summary: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    command = places.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(handler=handler)
    return command
