"""The minimal trainer: a recipe in, a checkpoint out.

``recipe`` says what to train, ``loop`` runs it, ``step`` holds one SAE in training, ``save`` writes the
checkpoint; ``activity``, ``buffer``, ``start``, ``selection``, ``sparse``, ``schedule``, ``heldout`` and
``provenance`` are its parts.
"""

from saebench.train.loop import TrainResult, train, train_many, train_on, train_recipes
from saebench.train.recipe import Recipe, load_recipe, load_recipes
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
