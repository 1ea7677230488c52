"""Plans for Mermaid, as in Markdown files of GitHub: https://mermaid.js.org, version 11."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from scalops.algebra.explain import Display
from scalops.reports.graph import Cluster, graph

# All but these is written as #code; since Mermaid reads Markdown, HTML, entities, icons and its own
# statements in labels; `:` would also end the last entity of a line that holds the word "style".
_SPECIAL = re.compile(r"[^\w ,.=+/()·…→—-]|_", re.ASCII)

_JOINER = "\u2060"  # no width


def to_mermaid(displays: Mapping[str, Display]) -> str:
    """A flowchart of the stages of a plan: inputs point to what reads them.

    A solid arrow joins a line of the text to the one above it, a dotted one what a stage has left
    behind to its readers. Loops are subgraphs, as are several stages.
    """
    made = graph(displays)
    lines = ["flowchart BT", *_inside(made.root, "  ", "c")]
    for edge in made.edges:
        lines.append(f"  {edge.source} {'-.->' if edge.stored else '-->'} {edge.target}")
    return "\n".join(lines)


def _inside(cluster: Cluster, indent: str, name: str) -> Iterator[str]:
    for node in cluster.nodes:
        yield f'{indent}{node.id}["{"<br/>".join(map(_escaped, node.lines))}"]'
    for i, inner in enumerate(cluster.clusters):
        yield f'{indent}subgraph {name}{i}["{_escaped(inner.title)}"]'
        yield from _inside(inner, indent + "  ", f"{name}{i}_")
        yield f"{indent}end"


def _escaped(text: str) -> str:
    text = text.replace("\\n", f"\\{_JOINER}n")  # which it reads as a line's end, as a code too
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", text)
