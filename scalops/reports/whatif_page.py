"""What-if as one page: sliders for all constants, and the cost model itself, in JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalops.reports.page import page

_HELD = ("question", "sweep")  # of the document; all else the page computes, and follows


def whatif_page(document: Mapping[str, Any]) -> str:
    """The page that asks what `WhatIf.to_dict()` asks, and answers as it does."""
    return page(
        "How many machines?",
        {name: document[name] for name in _HELD},
        body="whatif.html",
        styles=("whatif.css",),
        scripts=(
            *("model.js", "flips.js", "whatif_numbers.js", "whatif_sliders.js"),
            *("whatif_charts.js", "whatif_words.js", "whatif.js"),
        ),
    )
