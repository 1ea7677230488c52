"""The table of scalar and array functions: name, type rule, NumPy meaning, cost, print form."""

from scalops.algebra.functions import (
    arrangements,
    arrays,
    casts,
    choices,
    decompositions,
    distances,
    elementwise,
    hashes,
    linear,
    lists,
    randomness,
    scatter,
    softmax,
    sparse,
    strings,
)
from scalops.algebra.functions.table import FUNCTIONS, Function, function, ufunc_function

__all__ = [
    "FUNCTIONS",
    "Function",
    "arrangements",
    "arrays",
    "casts",
    "choices",
    "decompositions",
    "distances",
    "elementwise",
    "function",
    "hashes",
    "linear",
    "lists",
    "randomness",
    "scatter",
    "softmax",
    "sparse",
    "strings",
    "ufunc_function",
]
