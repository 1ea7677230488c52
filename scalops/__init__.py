"""ScalOps: a dataflow engine that understands loops.

    import scalops as so

Tables, values and loops are lazy; `collect()` runs them as one plan.
"""

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from scalops.aggregates import Aggregate
    from scalops.algebra.errors import (
        ConfigError,
        DataError,
        ExecutionError,
        LoopError,
        OptimizerError,
        PlanError,
        ScalopsError,
        SchemaError,
        SecurityError,
        TraceError,
        UserFunctionError,
        WorkerLost,
    )
    from scalops.cogrouping import cogroup
    from scalops.driver_call import call
    from scalops.environment import Environment
    from scalops.explain import explain
    from scalops.functions import (
        assume_associative,
        bool_,
        cast,
        float32,
        float64,
        int32,
        int64,
        list_,
        lit,
        string,
        timestamp,
        udf,
        vector,
        where,
    )
    from scalops.gradients import grad, value_and_grad
    from scalops.group_aggregates import (
        all,
        any,
        argmax,
        argmin,
        collect_list,
        count,
        first,
        last,
        max,
        mean,
        min,
        n_unique,
        quantile,
        std,
        sum,
        var,
    )
    from scalops.joining import join
    from scalops.loop import Loop, LoopResult, loop
    from scalops.loop_range import range
    from scalops.numpy_protocol import sigmoid
    from scalops.program import program
    from scalops.randomness import random
    from scalops.running import cummax, cummin, cumprod, cumsum, cumsumprod
    from scalops.session import collect, config, session
    from scalops.sources import (
        empty,
        from_arrow,
        load,
        read_csv,
        read_ipc,
        read_json,
        read_libsvm,
        read_parquet,
        read_text,
        read_vw,
        table,
    )
    from scalops.sparse import dense, hashed_counts, sparse_vector
    from scalops.table import Table
    from scalops.value import Value
    from scalops.value_functions import (
        coalesce,
        hash,
        is_null,
        logsumexp,
        one_hot,
        put,
        softmax,
    )
    from scalops.whatif import WhatIf, whatif

__version__ = "0.1.0"
__all__ = [
    "Aggregate",
    "ConfigError",
    "DataError",
    "Environment",
    "ExecutionError",
    "Loop",
    "LoopError",
    "LoopResult",
    "OptimizerError",
    "PlanError",
    "ScalopsError",
    "SchemaError",
    "SecurityError",
    "Table",
    "TraceError",
    "UserFunctionError",
    "Value",
    "WhatIf",
    "WorkerLost",
    "all",
    "any",
    "argmax",
    "argmin",
    "assume_associative",
    "bool_",
    "call",
    "cast",
    "coalesce",
    "cogroup",
    "collect",
    "collect_list",
    "config",
    "count",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "cumsumprod",
    "dense",
    "empty",
    "explain",
    "first",
    "float32",
    "float64",
    "from_arrow",
    "grad",
    "hash",
    "hashed_counts",
    "int32",
    "int64",
    "is_null",
    "join",
    "last",
    "list_",
    "lit",
    "load",
    "logsumexp",
    "loop",
    "max",
    "mean",
    "min",
    "n_unique",
    "one_hot",
    "program",
    "put",
    "quantile",
    "random",
    "range",
    "read_csv",
    "read_ipc",
    "read_json",
    "read_libsvm",
    "read_parquet",
    "read_text",
    "read_vw",
    "session",
    "sigmoid",
    "softmax",
    "sparse_vector",
    "std",
    "string",
    "sum",
    "table",
    "timestamp",
    "udf",
    "value_and_grad",
    "var",
    "vector",
    "whatif",
    "where",
]

# Names come from their modules when first used, so that the command line can print its help
# without loading NumPy.
_EXPORTS = {
    "scalops.aggregates": ("Aggregate",),
    "scalops.algebra.errors": (
        "ConfigError",
        "DataError",
        "ExecutionError",
        "LoopError",
        "OptimizerError",
        "PlanError",
        "ScalopsError",
        "SchemaError",
        "SecurityError",
        "TraceError",
        "UserFunctionError",
        "WorkerLost",
    ),
    "scalops.cogrouping": ("cogroup",),
    "scalops.driver_call": ("call",),
    "scalops.environment": ("Environment",),
    "scalops.explain": ("explain",),
    "scalops.functions": (
        "assume_associative",
        "bool_",
        "cast",
        "float32",
        "float64",
        "int32",
        "int64",
        "list_",
        "lit",
        "string",
        "timestamp",
        "udf",
        "vector",
        "where",
    ),
    "scalops.gradients": ("grad", "value_and_grad"),
    "scalops.group_aggregates": (
        "all",
        "any",
        "argmax",
        "argmin",
        "collect_list",
        "count",
        "first",
        "last",
        "max",
        "mean",
        "min",
        "n_unique",
        "quantile",
        "std",
        "sum",
        "var",
    ),
    "scalops.joining": ("join",),
    "scalops.loop": ("Loop", "LoopResult", "loop"),
    "scalops.loop_range": ("range",),
    "scalops.numpy_protocol": ("sigmoid",),
    "scalops.program": ("program",),
    "scalops.randomness": ("random",),
    "scalops.running": ("cummax", "cummin", "cumprod", "cumsum", "cumsumprod"),
    "scalops.session": ("collect", "config", "session"),
    "scalops.sources": (
        "empty",
        "from_arrow",
        "load",
        "read_csv",
        "read_ipc",
        "read_json",
        "read_libsvm",
        "read_parquet",
        "read_text",
        "read_vw",
        "table",
    ),
    "scalops.sparse": ("dense", "hashed_counts", "sparse_vector"),
    "scalops.table": ("Table",),
    "scalops.value": ("Value",),
    "scalops.value_functions": (
        "coalesce",
        "hash",
        "is_null",
        "logsumexp",
        "one_hot",
        "put",
        "softmax",
    ),
    "scalops.whatif": ("WhatIf", "whatif"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


class _Package(_ModuleType):
    """The package, whose public names are never hidden by a submodule of the same name."""

    def __setattr__(self, name: str, value: _Any) -> None:
        # Importing scalops.session sets the attribute `session`, which is a function here.
        if not (name in _MODULE_OF and isinstance(value, _ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> _Any:
        return _import_module, (self.__name__,)  # a function that uses `so` can be pickled


_sys.modules[__name__].__class__ = _Package

if not _TYPE_CHECKING:

    def __getattr__(name: str) -> _Any:
        if name in _MODULE_OF:
            value = getattr(_import_module(_MODULE_OF[name]), name)
            globals()[name] = value
            return value
        # Nobody looks for a private name but tools; other_words is asked for while it is imported.
        if name != "other_words" and not name.startswith("_"):
            raise _import_module("scalops.other_words").no_such(name, __all__)
        raise AttributeError(f"module 'scalops' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
