"""Plans for Graphviz: https://graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scalops.algebra.explain import Display
from scalops.reports.graph import Cluster, graph

_HEAD = (
    "digraph plan {",
    "  rankdir=BT;",  # what is read stands below, as in the text
    '  node [shape=box, style=rounded, fontname="monospace", fontsize=10];',
    '  graph [fontname="monospace", fontsize=10, labeljust=l];',
)


def to_dot(displays: Mapping[str, Display]) -> str:
    """A digraph of the stages of a plan: inputs point to what reads them.

    A solid arrow joins a line of the text to the one above it, a dashed one what a stage has left
    behind to its readers. Loops are clusters, as are several stages.
    """
    made = graph(displays)
    lines = [*_HEAD, *_inside(made.root, "  ", "0")]
    for edge in made.edges:
        dashed = " [style=dashed]" if edge.stored else ""
        lines.append(f"  {edge.source} -> {edge.target}{dashed};")
    return "\n".join([*lines, "}"])


def _inside(cluster: Cluster, indent: str, number: str) -> Iterator[str]:
    for node in cluster.nodes:
        yield f'{indent}{node.id} [label="{"".join(_escaped(s) + _LEFT for s in node.lines)}"];'
    for i, inner in enumerate(cluster.clusters):
        own = f"{number}_{i}"
        yield f"{indent}subgraph cluster_{own} {{"
        yield f'{indent}  label="{_escaped(inner.title)}";'
        yield f'{indent}  style="rounded,dashed";'
        yield from _inside(inner, indent + "  ", own)
        yield f"{indent}}}"


_LEFT = r"\l"  # ends a line that stands to the left


def _escaped(text: str) -> str:
    """For a string between quotes: Graphviz reads backslashes and HTML's entities in it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
