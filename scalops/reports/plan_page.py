"""A plan as one page: a tree to fold and search, costs, iterations, workers, the rules' trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalops.reports.page import page


def plan_page(explained: Mapping[str, Any]) -> str:
    """The page that shows what `explain(format="json")` says, which it holds as it is."""
    return page(
        "ScalOps plan",
        explained,
        body="plan.html",
        styles=("plan.css",),
        scripts=("tree.js", "workers.js", "iterations.js", "trace.js", "plan.js"),
    )
