"""Plans for the tests of pages: real ones, and one with every kind of figure."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import scalops as so

ATTACKS = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    '"><img src=x onerror=alert(1)>',
    "quotes \" ' ` and \\ and #35; &amp; &lt;",
    "[x](y) **bold** __u__ ~~s~~ %% end subgraph ::: style: x #1;",
    "line\nbreak\ttab \u2028 \u2029 \x00 \x1b",
    "naïve 数据 🙂 \u202e",
)


def logistic() -> Any:
    """A loop of which two folds read one table that it leaves unchanged."""
    raw = so.table({"x": np.ones((500, 4)), "y": np.ones(500), "unread": np.zeros(500)})
    xy = raw.filter(lambda r: r.y != 0).select("y", x=lambda r: np.log1p(r.x))

    @so.loop({"w": np.zeros(4), "loss": np.inf}, range(5))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum() / xy.count()
        step = xy.map(lambda r: r.y * r.x / (1 + np.exp(margin(r)))).sum()
        return {"w": env["w"] + 0.5 * step, "loss": loss}

    return model


def attacked() -> Any:
    """A plan whose columns and constants hold what could end a string, an element or a label."""
    columns = {f"{attack} {i}": [attack] for i, attack in enumerate(ATTACKS)}
    t = so.table({**columns, "n": [1.0]})
    for attack in ATTACKS:
        t = t.filter(lambda r, word=attack: r[f"{word} {ATTACKS.index(word)}"] != word)
    return t.select("n")


@cache
def _plan(name: str) -> Any:
    return {"logistic": logistic, "attacked": attacked}[name]()


@cache
def explained(name: str, **how: Any) -> str:
    """What explain says of one of the plans; each is traced once, and asked once."""
    text: str = _plan(name).explain(**how)
    return text


def analyzed() -> dict[str, Any]:
    """What explain says of a plan that ran, written by hand: estimates, and what happened."""
    scan = {
        "title": "TableScan memory: x, y",
        "figures": {
            "rows": 500.0,
            "bytes": 20_000.0,
            "seconds_first": 0.002,
            "seconds": 0.001,
            "rows_provenance": "exact",
            "provenance": "assumed",
            "actual_rows": 500.0,
            "actual_bytes": 20_000.0,
            "actual_seconds_first": 0.009,
            "actual_seconds": 0.0011,
            "off": 4.5,
        },
    }
    stage = {"title": "Stage 0: TreeAggregate", "details": [], "children": [scan], "name": "t1"}
    loop = {
        "title": "Iterate loop 1: 3 times, compiled once",
        "is_loop": True,
        "figures": {"iterations": 3.0, "iterations_known": "yes", "total_seconds": 0.004},
        "children": [stage, {"title": "StoredTable t1 (cached)", "reads": ["t1"]}],
    }
    root = {"title": "PhysicalPlan", "children": [loop], "workers": workers(5)}
    return {"version": 1, "stages": {"physical": root}, "analysis": {"profile": profile(3)}}


def workers(count: int) -> dict[str, Any]:
    """Ranks that all send to rank 0, and of whom the last has no partition."""
    ranges = [[3 * r, 3 * r + 3] for r in range(count - 1)] + [[3 * count - 3, 3 * count - 3]]
    return {
        "count": count,
        "where": "processes of this machine",
        "parents": [None, *[0] * (count - 1)],
        "homes": [{"table": "t1", "partitions": 3 * (count - 1), "ranges": ranges}],
    }


def profile(iterations: int) -> dict[str, Any]:
    """What was measured of a loop: iteration i spent i + 1 ms on each part."""
    names = ("load", "map", "aggregate", "broadcast", "update", "wait")
    timeline: list[dict[str, Any]] = [
        {
            "number": i,
            "seconds": 6 * (i + 1) / 1000,
            "parts": dict.fromkeys(names, (i + 1) / 1000),
        }
        for i in range(iterations)
    ]
    parts = {name: sum(entry["parts"][name] for entry in timeline) for name in names}
    spread = {
        "count": iterations,
        "first": 0.006,
        "median": 0.012,
        "low": 0.009,
        "high": 0.015,
        "slowest": timeline[-1]["seconds"],
        "slowest_at": iterations - 1,
        "total": sum(entry["seconds"] for entry in timeline),
    }
    loop = {
        "index": 0,
        "name": "model",
        "iterations": iterations,
        "seconds": spread,
        "parts": parts,
        "timeline": timeline,
    }
    nothing = dict.fromkeys(names, 0.0)
    return {
        "total_seconds": spread["total"],
        "workers": 5,
        "threads": 1,
        "parts": parts,
        "once": nothing,
        "stages": [],
        "loops": [loop],
        "caches": [
            {
                "table": 1,
                "stage": 0,
                "partitions": 12,
                "held": 9,
                "rows": 500,
                "bytes": 20_000,
                "hits": 27,
                "again": 3,
                "file_bytes": 4_000,
                "file_reads": 6,
            }
        ],
        "moved": {"to_workers": 64, "to_driver": 640, "between_workers": 0, "total": 704},
        "spilled_bytes": 0,
        "peak_bytes": 20_000,
        "memory": {"t1": 20_000},
        "lost": [],
        "files": {},
    }
