"""What the language has and this version has not: a PlanError that says so, never a surprise."""

from __future__ import annotations

from typing import NoReturn

from scalops.algebra.errors import PlanError, user_location

TABLE_METHODS = (
    "flat_map", "explode", "union", "distinct", "sort", "slice", "sample", "random_split",
    "shuffle", "with_row_index", "join", "map_batches", "group_by", "by", "aggregate", "first",
    "last", "var", "std", "n_unique", "quantile", "argmin", "argmax", "to_array", "cache",
    "forget", "write_parquet", "write_csv", "write_ipc", "write_json",
)  # fmt: skip

FUNCTIONS = (
    "read_ipc", "read_json", "read_libsvm", "read_text", "load", "empty", "join", "cogroup",
    "Aggregate", "range", "call", "grad", "value_and_grad", "random",
    "softmax", "logsumexp", "one_hot", "coalesce", "is_null", "dense", "hash", "hashed_counts",
    "sparse_vector", "put", "config", "cumsum", "cummin", "cummax", "cumprod", "cumsumprod",
    "sum", "mean", "min", "max", "count", "any", "all", "first", "last", "var", "std",
    "n_unique", "quantile", "argmin", "argmax", "collect_list", "list_", "whatif",
)  # fmt: skip

OTHER = (
    "Table fields in the environment",
    "sparse vectors and lists",
    "columns that are records",
    "string functions that are traced (`r.text.str` runs record by record)",
    "checkpoint, resume and on_iteration",
    "`on_error=` and `filesystem=` of readers",
    "so.range and a Value as limit's count",
    "worker processes for whole plans, and clusters",
    "explain(analyze=True) and whatif",
)


def refuse(what: str) -> NoReturn:
    """Raise the PlanError of something that is not built yet."""
    raise PlanError(
        f"{what} is not yet built",
        location=user_location(),
        hint="the README lists what works in this version",
    )


def refuse_method(owner: str, name: str) -> None:
    """Raise for a method that the language has and this version has not."""
    if name in TABLE_METHODS:
        refuse(f"{owner}.{name}")
