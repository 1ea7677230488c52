"""One program of `benchmarks.limited`, in the process that is limited: prints what it gives."""

from __future__ import annotations

import json
import sys

from benchmarks.limited import PROGRAMS

if __name__ == "__main__":
    name, path, rows = sys.argv[1:]
    print(json.dumps(PROGRAMS[name](path, int(rows))))
