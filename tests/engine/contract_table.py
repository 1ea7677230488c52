"""The contract as a table, backend by case: `python -m tests.engine.contract_table [--long]`."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

SUITE = Path(__file__).with_name("test_contract.py")
SHOWN = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


class Outcomes:
    """Notes what each case came to on each backend."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """As of pytest."""
        if report.when != "call" and report.passed:
            return
        group, test = report.nodeid.split("::")[-2:]
        case, _, parameters = test.partition("[")
        backend = "processes-2"
        if group == "TestBackends":  # embedded-2-exchange]
            backend = "-".join(parameters.rstrip("]").split("-")[:2])
        self.found[case.removeprefix("test_").replace("_", " ")][backend].append(report.outcome)


def table_of(outcomes: Outcomes) -> Table:
    """A row for each case, a column for each backend."""
    rows = outcomes.found
    backends = list(dict.fromkeys(b for row in rows.values() for b in row))
    made = Table("case", *backends, title="The contract of backends")
    for case, row in rows.items():
        cells = []
        for backend in backends:
            worst = min(row.get(backend, ["-"]), key=["failed", "skipped", "passed", "-"].index)
            count = len(row.get(backend, ()))
            shown = SHOWN.get(worst, worst)
            cells.append(f"{shown} x{count}" if count > 1 else shown)
        made.add_row(case, *cells)
    return made


def main() -> int:
    """Run the suite and print the table."""
    outcomes = Outcomes()
    chosen = ["-m", "long or not long"] if "--long" in sys.argv else []
    with redirect_stdout(io.StringIO()):
        code = pytest.main([str(SUITE), "-q", *chosen], [outcomes])
    Console(width=160).print(table_of(outcomes))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
