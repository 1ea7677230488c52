"""What others have under another name, or not as a function, and how it is done here."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_OTHER_WORDS = {
    **dict.fromkeys(("nunique", "count_distinct"), "so.n_unique(c)"),
    "median": "so.quantile(0.5, c)",
    **dict.fromkeys(("collect_set", "array_agg"), "so.collect_list(c)"),
    **dict.fromkeys(
        ("lag", "lead", "shift", "diff"),
        "with_row_index(), and a join with the same table whose index is one more",
    ),
    **dict.fromkeys(
        ("rank", "row_number", "cumcount", "cum_count"), "so.cumsum(lambda r: 1, over=...)"
    ),
    "cum_sum": "so.cumsum(c)",
    **dict.fromkeys(("col", "expr"), "a function of the record: lambda r: r.c"),
    "when": "so.where(condition, a, b)",
    "concat": "a.union(b)",
    **dict.fromkeys(("DataFrame", "from_pandas", "from_polars"), "so.from_arrow(data)"),
}


def no_such(name: str, names: Sequence[str] = ()) -> AttributeError:
    """What there is not in the package, with what does the same, or the nearest of its `names`."""
    near = get_close_matches(name, names, 1)
    instead = f"; did you mean 'so.{near[0]}'?" if near else ""
    if name in _OTHER_WORDS:
        instead = f"; use {_OTHER_WORDS[name]}"
    # With a name and an object of its own, Python adds no second suggestion in a traceback.
    return AttributeError(
        f"module 'scalops' has no attribute {name!r}{instead}", name=name, obj=None
    )
