"""The minimal trainer: a recipe in, a checkpoint out; SAEs, difference SAEs and crosscoders.

``recipe`` says what to train (``recipe_checks``: what it cannot be; ``recipe_files``: as TOML), ``loop``
runs it, ``step`` holds one SAE in training, ``finished`` is what it has made, ``save`` writes that in one of
the ``layouts``. ``streams`` and ``activity`` read the models, ``buffer`` mixes; ``columns`` and ``inputs``
are what a trainer takes and how it scales it; ``start``, ``selection``, ``sparse`` and ``schedule`` are
parts of a step; ``heldout``, ``history``, ``outcome``, ``provenance`` and ``summary`` are what is known
of it, ``progress`` says how far it is.
"""

from saebench.train.loop import TrainResult, train, train_many, train_on, train_recipes
from saebench.train.recipe import Recipe
from saebench.train.recipe_files import load_recipe, load_recipes
from saebench.train.save import save_checkpoint
from saebench.train.step import Trainer

__all__ = [
    "Recipe",
    "TrainResult",
    "Trainer",
    "load_recipe",
    "load_recipes",
    "save_checkpoint",
    "train",
    "train_many",
    "train_on",
    "train_recipes",
]
