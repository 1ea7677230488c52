"""JSON without a limit on nesting, compared with the standard library's."""

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra.deep_json import deep_json
from scalops.algebra.explain import Display

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_FINITE = _LEAVES.filter(lambda v: v not in (float("inf"), float("-inf")))
PLAIN = st.recursive(
    _FINITE,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=40)
@given(PLAIN)
def test_it_writes_what_json_writes(value: Any) -> None:
    assert deep_json(value, indent=2) == json.dumps(value, indent=2)
    assert deep_json(value) == json.dumps(value, separators=(",", ":"))


def test_what_json_has_no_number_for_is_text() -> None:
    value = {"a": [math.nan, math.inf, -math.inf, 1.5]}
    assert json.loads(deep_json(value)) == {"a": ["NaN", "Infinity", "-Infinity", 1.5]}


def test_a_plan_of_five_thousand_lines_below_each_other() -> None:
    root = Display("Limit 0")
    deepest = root
    for i in range(1, 5_000):
        deepest.children = [Display(f"Limit {i}")]
        deepest = deepest.children[0]
    text = root.to_json()
    assert text.count('"children"') == 4_999
    assert text.index('"Limit 41"') < text.index('"Limit 4999"')
    assert max(map(len, text.splitlines())) < 200
