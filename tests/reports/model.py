"""The cost model of a page, run by node: its answers to questions as the page puts them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import pytest

from scalops.optimizer.costs.whatif import Question

_HARNESS = """
const point = (p) => p && { ...p, fanIns: p.fanIns() };
const asked = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const answers = asked.map((q) => {
  if (q.symbols.cache === null) q.symbols.cache = Infinity;
  const found = answerOf(q), many = q.counts[q.counts.length - 1];
  const trees = q.fanIn === "best" ? null : pointsOf(q.symbols, q.counts, null, q.fanIn);
  return {
    points: found.points.map(point), choice: point(found.choice), nearest: point(found.nearest),
    fastest: point(found.fastest), cheapest: point(found.cheapest),
    best: found.byType.map((t) => point(t.best)), trees: trees && trees.map(point),
    flips: q.fanIn === "best" ? new Flips(q, found).all() : null,
    closed: found.byType.map(({ symbols: s }) => [undefined, 3].flatMap((f) =>
      [closedFastest(s, f), closedCheapest(s, f), closedSeconds(s, many, f)])),
  };
});
process.stdout.write(JSON.stringify(answers));
"""


def node_says(questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page's model answers. Skips where there is no node; infinite numbers are None."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which runs the page's model outside of a browser")
    templates = files("scalops.reports").joinpath("templates")
    scripts = [templates.joinpath(name).read_text("utf-8") for name in ("model.js", "flips.js")]
    done = subprocess.run(
        [node, "-e", "\n".join(['"use strict";', *scripts, _HARNESS])],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def as_asked(question: Question, fan_in: str = "best") -> dict[str, Any]:
    """A question as the page has it."""
    catalog, symbols = question.catalog, asdict(question.symbols)
    own = None if catalog is None else question.reference or catalog[catalog.reference]
    return {
        "symbols": symbols | {"cache": symbols["cache"] if symbols["cache"] < math.inf else None},
        "counts": list(question.machines),
        "fanIn": fan_in,
        "objective": question.objective,
        "deadline": question.deadline,
        "budget": question.budget,
        "types": None if catalog is None else [asdict(t) for t in catalog],
        "reference": None if own is None else asdict(own),
    }
