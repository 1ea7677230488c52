"""One HTML file that holds all it shows: markup, styles, scripts and data.

Such a page opens from a folder, without a network, and asks for none: its content security policy
allows the styles and scripts that it was made with, by their digests, and nothing else. Charts are
drawn by `templates/charts.js`; a plotting library would add megabytes to each page.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from scalops.algebra.deep_json import deep_json

_STYLE, _SCRIPTS = "page.css", ("charts.js", "page.js")  # of every page


def page(
    title: str, data: Any, *, body: str, scripts: Sequence[str], styles: Sequence[str] = ()
) -> str:
    """The text of a page; the same for the same arguments.

    `body`, `scripts` and `styles` name files in `templates/`. Scripts share one scope with those
    that every page has (`charts.js`, `page.js`) and find `data`, plain data, as `DATA`.
    """
    style = "\n".join(_template(name) for name in (_STYLE, *styles))
    parts = [
        *("(() => {", '"use strict";'),
        *(_template(name) for name in (*_SCRIPTS, *scripts)),
        "})();",
    ]
    script = "\n".join(parts)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "img-src data:",  # the empty icon: else a server of the page is asked for one
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    shown = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{shown}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{shown}</h1></header>
{_template(body)}
<noscript><p>This page is drawn by its own script: allow it to run.</p></noscript>
<script type="application/json" id="data">{embedded(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def embedded(data: Any) -> str:
    """JSON that may stand inside a <script> element: no character of it can end the element."""
    text = deep_json(data)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    found = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(found).decode('ascii')}"
