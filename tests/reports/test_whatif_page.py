"""The what-if page as text: it holds the question, nothing escapes, nothing is fetched."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any

import pytest

import scalops as so
from scalops.optimizer.costs.catalog import Catalog, MachineType
from scalops.optimizer.costs.whatif import BOUNDS
from scalops.reports.whatif_page import whatif_page
from tests.reports.pages import ATTACKS
from tests.reports.test_pages import Parts, data_of

LARGEST = 150_000  # characters
TYPES = (
    MachineType("small", 4, 16e9, 2e8, 1.25e9, 0.19),
    MachineType("large", 16, 128e9, 1e9, 3.1e9, 0.77, 1.2),
)


@cache
def asked(**more: Any) -> so.WhatIf:
    """The second golden row of the closed form."""
    return so.whatif(records=1e8, map=1e-6, load=4e-6, cache=5e6, aggregate=0.5, **more)


def catalog(*types: MachineType) -> Catalog:
    return Catalog(types, types[0].name)


def test_a_page_holds_the_question() -> None:
    found = asked(deadline="20min", iterations=100, catalog=catalog(*TYPES), sweep="cache=1e6..1e8")
    document = found.to_dict()
    held = data_of(found.to_html())
    assert held == json.loads(json.dumps({k: document[k] for k in ("question", "sweep")}))
    own = held["question"]["catalog"]
    assert own["reference_type"]["name"] == own["reference"] == "small"


def test_a_page_is_small_and_the_same_each_time() -> None:
    found = asked(machines="1..400,1000", sweep="records=1e6..1e10")
    text = whatif_page(found.to_dict())
    assert text == whatif_page(found.to_dict())
    assert len(text.encode()) < LARGEST


def test_a_cache_that_holds_all_is_null() -> None:
    held = data_of(so.whatif(records=1e6, map=1e-6).to_html())["question"]["symbols"]
    assert (held["cache"]["value"], held["price"]["value"]) == (None, None)
    assert so.whatif(records=1e6, map=1e-6).question.symbols.cache == math.inf


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_names_of_machines_end_no_script(attack: str) -> None:
    types = (*TYPES, MachineType("attack", 4, 16e9, 2e8, 1.25e9, 0.2))
    document = asked(catalog=catalog(*types), machines=(1, 2)).to_dict()
    # A catalog's names are of one line; a page is no catalog.
    document["question"]["catalog"]["types"][2]["name"] = attack
    text = whatif_page(document)
    assert data_of(text)["question"]["catalog"]["types"][2]["name"] == attack
    plain = asked(catalog=catalog(*TYPES), machines=(1, 2)).to_html()
    assert [t for t, _ in Parts(text).tags] == [t for t, _ in Parts(plain).tags]


def test_a_page_names_no_other_file_and_no_network() -> None:
    text = asked().to_html()
    assert "http" not in text.replace("http-equiv", "")
    code = re.sub(r"^\s*//.*$|  // .*$|'sha256-\S*'", "", text, flags=re.MULTILINE)
    for word in ("//", "src=", "url(", "@import", "fetch(", "XMLHttp", "WebSocket", "import("):
        assert word not in code, word
    policy = next(a["content"] for _, a in Parts(text).tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_page_takes_numbers_from_the_same_bounds() -> None:
    """Those of whatif_numbers.js and of `so.whatif`."""
    text = asked().to_html()
    bounds = re.search(r"const A_TIME = (\[.*?\]);\s*const BOUNDS = \{(.*?)\};", text, re.DOTALL)
    assert bounds is not None
    found = re.findall(r"(\w+): (A_TIME|\[.*?\])", bounds[2])
    read = {name: json.loads(ends.replace("A_TIME", bounds[1])) for name, ends in found}
    assert read == {name: list(ends) for name, ends in BOUNDS.items()}
