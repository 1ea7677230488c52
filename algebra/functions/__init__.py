"""The table of scalar and array functions: name, type rule, NumPy meaning, cost, print form."""

from scalops.algebra.functions import arrays, elementwise, linear
from scalops.algebra.functions.table import FUNCTIONS, Function, function, ufunc_function

__all__ = [
    "FUNCTIONS",
    "Function",
    "arrays",
    "elementwise",
    "function",
    "linear",
    "ufunc_function",
]
