"""A reference quantiser in plain torch: what bitsandbytes is checked against, and used without it.

``code_books`` has the values that codes stand for, ``blocks`` 4-bit weights with a scale per block,
``integers`` and ``float8`` scales per channel and token, ``layers`` linear layers that quantise their
input too, ``applying`` all of it on a loaded model.
"""

from saebench.quantisation.applying import linear_layers, quantise_model
from saebench.quantisation.blocks import Blocks, quantise_blocks
from saebench.quantisation.code_books import code_book, dynamic_map, fp4, nf4
from saebench.quantisation.float8 import round_to_float8
from saebench.quantisation.integers import quantise_rows, round_to_nearest
from saebench.quantisation.layers import Float8Linear, Int8Linear

__all__ = [
    "Blocks",
    "Float8Linear",
    "Int8Linear",
    "code_book",
    "dynamic_map",
    "fp4",
    "linear_layers",
    "nf4",
    "quantise_blocks",
    "quantise_model",
    "quantise_rows",
    "round_to_float8",
    "round_to_nearest",
]
