"""Plans as DOT and Mermaid: nodes and edges of the display tree, and labels that stay labels."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import scalops as so
from scalops.algebra.explain import Display
from scalops.reports.dot import to_dot
from scalops.reports.graph import graph, label_lines
from scalops.reports.mermaid import to_mermaid
from tests.reports.pages import ATTACKS, explained

STAGES = ("traced", "logical", "optimized", "physical")


def shared() -> Display:
    """A loop of two readers of one line, and a stored table that a third one reads."""
    table = Display("@1 Cache", name="@1", children=[Display("Scan memory")])
    above = Display("@1 Cache as above", name="@1")
    loop = Display("Loop loop1 m: 3 times", name="loop1", is_loop=True)
    loop.children = [Display("#1 Aggregate", name="#1", children=[table]), above]
    stored = Display("StoredTable t1", reads=["@1", "missing"])
    return Display("Job", children=[loop, stored])


def test_a_name_that_comes_again_is_the_same_node() -> None:
    made = graph({"optimized": shared()})
    ids = {
        line: node.id
        for c in (made.root, *made.root.clusters)
        for node in c.nodes
        for line in node.lines
    }
    assert list(ids) == [
        *("Job", "StoredTable t1", "Loop loop1 m: 3 times", "#1 Aggregate", "@1 Cache"),
        "Scan memory",
    ]
    solid = {(e.source, e.target) for e in made.edges if not e.stored}
    loop, cache, folded = (ids[t] for t in ("Loop loop1 m: 3 times", "@1 Cache", "#1 Aggregate"))
    assert solid == {
        (loop, ids["Job"]),
        (ids["StoredTable t1"], ids["Job"]),
        (folded, loop),
        (cache, folded),
        (cache, loop),
        (ids["Scan memory"], cache),
    }
    assert [(e.source, e.target) for e in made.edges if e.stored] == [
        (cache, ids["StoredTable t1"])
    ]


def test_a_loop_is_a_cluster_of_what_stands_below_it() -> None:
    made = graph({"optimized": shared()})
    (loop,) = made.root.clusters
    assert loop.title == "Loop loop1 m"
    assert [n.lines[0] for n in loop.nodes] == [
        *("Loop loop1 m: 3 times", "#1 Aggregate", "@1 Cache", "Scan memory")
    ]


def test_labels_hold_details_and_place_and_figures() -> None:
    line = Display("Scan memory", [("columns", "x " * 60)], location="train.py:3")
    line.figures = {"rows": 500.0, "rows_provenance": "exact"}
    first, place, *details, last = label_lines(line)
    assert (first, place) == ("Scan memory", "(train.py:3)")
    assert "".join(details).count("x") == 60
    assert max(map(len, details)) <= 60
    assert last == "· cost: 500 rows (exact)"


def dot_labels(text: str) -> list[str]:
    """The labels of nodes, read as Graphviz reads strings: quotes, backslashes, entities."""
    found = re.findall(r'^ *n\d+ \[label="((?:[^"\\]|\\.)*)"\];$', text, re.MULTILINE)
    unescaped = [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "l" else m[1], t) for t in found]
    return [t.replace("&amp;", "&") for t in unescaped]


def mermaid_labels(text: str) -> list[str]:
    """The labels of nodes, read as Mermaid reads them: codes of characters, <br/>."""
    found = re.findall(r'^ *n\d+\["([^"]*)"\]$', text, re.MULTILINE)
    lines = [t.replace("<br/>", "\n") for t in found]
    assert not any(
        set(t) & set('"<>&`[]{};*_~%\\|@:!') for t in re.sub(r"#\d+;", "", "".join(lines))
    )
    decoded = [re.sub(r"#(\d+);", lambda m: chr(int(m[1])), t) for t in lines]
    assert not any("\\n" in t for t in decoded)  # it would be a line's end
    return [t.replace("\u2060", "") for t in decoded]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["logistic", "attacked"])
def test_both_formats_hold_every_line_of_the_plan(stage: str, name: str) -> None:
    dot, mermaid = (explained(name, stage=stage, format=f) for f in ("dot", "mermaid"))
    labels = [label.rstrip("\n") for label in dot_labels(dot)]
    assert labels == mermaid_labels(mermaid)
    assert len(labels) == dot.count("[label=")
    text = "".join(explained(name, stage=stage).split())
    for label in labels:
        title = "".join(label.split("\n")[0].split())
        assert title in text or "\x00" in text  # what cannot be printed is a space here


@pytest.mark.parametrize("stage", STAGES)
def test_edges_join_nodes_and_all_nodes_are_reached(stage: str) -> None:
    dot = explained("logistic", stage=stage, format="dot")
    nodes = set(re.findall(r"^ *(n\d+) \[", dot, re.MULTILINE))
    edges = re.findall(r"^  (n\d+) -> (n\d+)(?: \[style=dashed\])?;$", dot, re.MULTILINE)
    assert {n for edge in edges for n in edge} == nodes
    assert dot.count("{") == dot.count("}")
    mermaid = explained("logistic", stage=stage, format="mermaid")
    assert re.findall(r"^  (n\d+) -(?:-|\.-)> (n\d+)$", mermaid, re.MULTILINE) == edges


def test_what_a_stage_leaves_behind_is_joined_to_its_readers() -> None:
    dot = explained("logistic", stage="physical", format="dot")
    (cache,) = re.findall(r'(n\d+) \[label="Stage \d+: CacheTable t1', dot)
    readers = re.findall(r'(n\d+) \[label="StoredTable t1 ', dot)
    assert readers
    for reader in readers:
        assert f"  {cache} -> {reader} [style=dashed];" in dot


def test_all_stages_are_clusters_of_one_graph() -> None:
    dot = explained("logistic", stage="all", format="dot")
    mermaid = explained("logistic", stage="all", format="mermaid")
    for stage in STAGES:
        assert f'    label="{stage}";' in dot
        assert f'["{stage}"]' in mermaid
    assert dot.count("digraph") == mermaid.count("flowchart") == 1


def test_a_deep_plan_needs_no_deep_stack() -> None:
    root = Display("Job")
    deepest = root
    for i in range(2_000):
        deepest.children = [Display(f"Limit {i}")]
        deepest = deepest.children[0]
    assert to_dot({"traced": root}).count(" -> ") == 2_000
    assert to_mermaid({"traced": root}).count(" --> ") == 2_000


def test_a_drawing_has_no_trace() -> None:
    for form in ("dot", "mermaid"):
        with pytest.raises(so.ConfigError, match=f"explain's format '{form}' .*trace=True.*html"):
            explained("logistic", format=form, trace=True)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["physical", "all"])
@pytest.mark.parametrize("name", ["logistic", "attacked"])
def test_graphviz_draws_every_label(stage: str, name: str, tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("needs graphviz")
    text = explained(name, stage=stage, format="dot")
    (tmp_path / "plan.dot").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["dot", "-Tplain", "plan.dot"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    drawn = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("node ")]
    assert len(drawn) == len(dot_labels(text))


def test_each_attack_reaches_the_labels() -> None:
    dot = "".join(dot_labels(explained("attacked", format="dot")))
    for attack in ATTACKS:
        pieces = [p for p in re.split(r"[\s\x00\x1b]+", attack) if p.isprintable() and "'" not in p]
        for one, two in itertools.pairwise([*pieces, ""]):
            assert one in dot, (attack, one, two)
