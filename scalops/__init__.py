"""ScalOps: a dataflow engine that understands loops.

    import scalops as so

Tables, values and loops are lazy; `collect()` runs them as one plan.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

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
from scalops.environment import Environment
from scalops.functions import (
    bool_,
    cast,
    float32,
    float64,
    int32,
    int64,
    lit,
    string,
    timestamp,
    udf,
    vector,
    where,
)
from scalops.loop import Loop, LoopResult, loop
from scalops.numpy_protocol import sigmoid
from scalops.program import program
from scalops.session import collect, session
from scalops.sources import from_arrow, read_csv, read_parquet, table
from scalops.table import Table
from scalops.value import Value

__version__ = "0.1.0"
__all__ = [
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
    "WorkerLost",
    "bool_",
    "cast",
    "collect",
    "float32",
    "float64",
    "from_arrow",
    "int32",
    "int64",
    "lit",
    "loop",
    "program",
    "read_csv",
    "read_parquet",
    "session",
    "sigmoid",
    "string",
    "table",
    "timestamp",
    "udf",
    "vector",
    "where",
]

if not _TYPE_CHECKING:

    def __getattr__(name: str) -> _Any:
        from scalops import not_yet

        if name in not_yet.FUNCTIONS:

            def refused(*_: _Any, **__: _Any) -> _Any:
                not_yet.refuse(f"so.{name}")

            return refused
        raise AttributeError(f"module 'scalops' has no attribute {name!r}")
