"""Pages as text: they hold what explain says, nothing escapes, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

import scalops as so
from scalops.reports.page import page
from scalops.reports.plan_page import plan_page
from tests.reports.pages import ATTACKS, analyzed, explained, logistic


class Parts(HTMLParser):
    """The elements of a page, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self.texts.setdefault(tag, []).append("")
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside][-1] += data


def data_of(text: str) -> Any:
    """What a page holds as data."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


@pytest.mark.parametrize("stage", ["traced", "optimized", "physical", "all"])
@pytest.mark.parametrize("trace", [False, True])
def test_a_page_holds_what_explain_says_as_json(stage: str, trace: bool) -> None:
    page, data = (
        explained("logistic", stage=stage, format=f, trace=trace) for f in ("html", "json")
    )
    assert data_of(page) == json.loads(data)


def test_a_page_is_the_same_each_time() -> None:
    assert logistic().explain(format="html") == explained("logistic", format="html")


def test_nothing_in_a_plan_ends_its_script_or_adds_elements() -> None:
    plain, text = (
        plan_page(analyzed()),
        explained("attacked", stage="all", format="html", trace=True),
    )
    assert [t for t, _ in Parts(text).tags] == [t for t, _ in Parts(plain).tags]
    columns = data_of(text)["stages"]["traced"]["children"][0]
    assert ATTACKS[0] in json.dumps(columns)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_data_and_title_are_escaped(attack: str) -> None:
    made = page(attack, {attack: attack, "half": "\ud800"}, body="plan.html", scripts=())
    assert data_of(made) == {attack: attack, "half": "\ud800"}
    parts = Parts(made)
    assert [t for t, _ in parts.tags].count("script") == 2
    assert "img" not in {t for t, _ in parts.tags}
    assert parts.texts["title"] == [attack]


def test_a_page_names_no_other_file_and_no_network() -> None:
    text = explained("logistic", stage="all", format="html", trace=True)
    text = re.sub(r"sha256-[A-Za-z0-9+/=]+", "", text)  # a digest may have two slashes
    assert "http" not in text.replace("http-equiv", "")
    for word in ("//", "src=", "url(", "@import", "fetch(", "XMLHttp", "WebSocket", "import("):
        without_comments = re.sub(r"^\s*//.*$|\s//\s.*$|;  // .*$", "", text, flags=re.MULTILINE)
        assert word not in without_comments, word
    links = [attributes for tag, attributes in Parts(text).tags if "href" in attributes]
    assert links == [{"rel": "icon", "href": "data:,"}]


def test_the_policy_allows_the_pages_own_script_and_style_alone() -> None:
    parts = Parts(explained("logistic", format="html"))
    (policy,) = [
        attributes["content"] or ""
        for _, attributes in parts.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    (style,), (_, script) = parts.texts["style"], parts.texts["script"]
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


def test_workers_are_in_the_data() -> None:
    t = so.table({"x": range(200_000)})
    total = t.map(lambda r: r.x * 2.0).sum()
    with so.session(workers=3):
        shown = json.loads(total.explain(stage="physical", format="json"))["stages"]["physical"]
        text = total.explain(stage="physical")
    workers = shown["workers"]
    assert (workers["count"], workers["parents"][0]) == (3, None)
    (home,) = workers["homes"]
    assert home["ranges"][0][0] == 0
    assert home["ranges"][-1][1] == home["partitions"]
    assert all(a[1] == b[0] for a, b in zip(home["ranges"], home["ranges"][1:], strict=False))
    first = home["ranges"][0]
    assert f"rank 0: {first[0]}" in text
    assert f", {home['partitions']} partition" in text
    edges = [f"{r} → {p}" for r, p in enumerate(workers["parents"]) if p is not None]
    assert edges
    tree = next(d["text"] for d in shown["details"] if d["label"] == "tree")
    for rank, parent in enumerate(workers["parents"]):
        assert re.search(rf"\b{rank}\b[^;]* → {'driver' if parent is None else parent}", tree)
