"""Which files of a folder dictionary_learning and its forks wrote, and what their headers show.

Three adapters share the folder layouts, and none may claim what is another's: crosscoders have an
encoder of three dimensions, folders for the hub keep the class's arguments at the top of the config,
runs name their class under ``trainer``. Weights and config lie together, or together in a folder
``dictionary_model`` below the files of the run (diffing-toolkit).
"""

from __future__ import annotations

from collections.abc import Mapping

from saebench.adapters.reading.fields import Fields
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.weights import TensorInfo, is_pickle, is_weights

CONFIG_FILE = "config.json"
MODEL_FOLDER = "dictionary_model"
TRAINER_FILE = "trainer_config.json"
WEIGHT_FILES = ("ae.safetensors", "model.safetensors", "ae.pt", "model_final.pt", "ae_final.pt")
CROSSCODERS = ("CrossCoder", "BatchTopKCrossCoder")
ENCODER, DECODER = "encoder.weight", "decoder.weight"


def place_of(names: tuple[str, ...], name: str) -> str | None:
    """Where a file lies: in the folder of the model, or beside the weights; None where it is not."""
    return next((path for path in (f"{MODEL_FOLDER}/{name}", name) if path in names), None)


def config_of(files: CheckpointFiles) -> Fields | None:
    """What ``config.json`` says; None where there is none."""
    config = place_of(files.names, CONFIG_FILE)
    return None if config is None else Fields(config, files.json(config))


def weight_file(names: tuple[str, ...]) -> str | None:
    """The library's own file name, or the only weight file there is."""
    own = next((path for name in WEIGHT_FILES if (path := place_of(names, name))), None)
    weights = [name for name in names if is_weights(name)]
    return own or (weights[0] if len(weights) == 1 else None)


def dict_class(files: CheckpointFiles) -> tuple[str, str] | None:
    """The class that a config names and where it does so (``config.json: trainer.dict_class``)."""
    for name in filter(None, (place_of(files.names, own) for own in (CONFIG_FILE, TRAINER_FILE))):
        fields = Fields(name, files.json(name))
        for key in ("trainer.dict_class", "dict_class"):
            value = fields.value(key)
            if isinstance(value, str):
                return value, f"{name}: {key}"
    return None


def is_crosscoder(files: CheckpointFiles, weights: str) -> bool:
    """Whether the weights read several activations, by their shapes or else by the class named."""
    header = header_of(files, weights)
    if ENCODER in header and DECODER in header and len(header[ENCODER].shape) == 3:
        return len(header[DECODER].shape) == 3
    named = dict_class(files)
    return named is not None and named[0] in CROSSCODERS


def header_of(files: CheckpointFiles, name: str) -> Mapping[str, TensorInfo]:
    """The tensors of a file; none where it may not be opened, or cannot be."""
    if is_pickle(name) and not files.allow_pickle:
        return {}
    try:
        return files.header(name)
    except CheckpointError:
        return {}  # whoever reads it says what is wrong with it
