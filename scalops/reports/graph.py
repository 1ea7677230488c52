"""A display tree as a graph: lines that name each other are one node, loops are clusters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalops.algebra.explain import Display
from scalops.algebra.figures import figure_lines

LABEL_WIDTH = 60


@dataclass(frozen=True)
class GraphNode:
    """A node by its id in the text, and the lines of its label."""

    id: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """Records or values go from one node to another; `stored`: through what a stage left behind."""

    source: str
    target: str
    stored: bool = False


@dataclass
class Cluster:
    """Nodes drawn inside one frame: a loop, a stage of several, or the whole graph."""

    title: str
    nodes: list[GraphNode] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)


@dataclass
class Graph:
    """Nodes within clusters, and edges between any of them."""

    root: Cluster = field(default_factory=lambda: Cluster(""))
    edges: list[Edge] = field(default_factory=list)
    _count: int = 0

    def add(self, display: Display, cluster: Cluster) -> None:
        """The nodes and edges of a display tree, in the order of its lines."""
        named: dict[str, str] = {}
        readers: list[tuple[str, list[str]]] = []
        stack: list[tuple[Display, str | None, Cluster]] = [(display, None, cluster)]
        while stack:
            line, parent, inside = stack.pop()
            above = named.get(line.name or "") if not line.children else None
            if line.is_loop and above is None:
                inside.clusters.append(Cluster(line.title.partition(":")[0]))
                inside = inside.clusters[-1]
            own = above or self._node(line, inside)
            if parent is not None:
                self.edges.append(Edge(own, parent))
            if line.name:
                named.setdefault(line.name, own)
            readers.append((own, line.reads))
            stack.extend((child, own, inside) for child in reversed(line.children))
        for own, reads in readers:
            self.edges += [Edge(named[name], own, True) for name in reads if name in named]

    def _node(self, line: Display, cluster: Cluster) -> str:
        node = GraphNode(f"n{self._count}", tuple(label_lines(line)))
        self._count += 1
        cluster.nodes.append(node)
        return node.id


def graph(displays: Mapping[str, Display]) -> Graph:
    """One graph of the stages of a plan by name; of several each has a cluster."""
    made = Graph()
    for name, display in displays.items():
        if len(displays) > 1:
            made.root.clusters.append(Cluster(name))
        made.add(display, made.root if len(displays) == 1 else made.root.clusters[-1])
    return made


def label_lines(line: Display) -> list[str]:
    """Title, place in the user's file, details and figures, in lines of at most LABEL_WIDTH."""
    parts = [line.title]
    if line.location is not None:
        parts.append(f"({line.location})")
    details = [*line.details, *figure_lines(line.figures)]
    parts += [f"· {label}: {value}" for label, value in details]
    lines: list[str] = []
    for part in map(_printable, parts):
        lines += textwrap.wrap(
            part, LABEL_WIDTH, subsequent_indent="    ", break_on_hyphens=False
        ) or [""]
    return lines


def _printable(text: str) -> str:
    """Without what no file of text can hold: control characters, halves of characters."""
    encoded = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in encoded)
