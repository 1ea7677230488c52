"""The command `scalops whatif`, and `so.whatif`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import scalops as so
from scalops import whatif_arguments as arguments
from scalops.algebra.errors import ConfigError, PlanError
from scalops.cli.commands import cli
from scalops.whatif import Program
from tests.cli.conftest import Invoke, Write
from tests.conftest import Golden

SCHEMA = Path(__file__).parents[2] / "docs" / "whatif.schema.json"
GIVEN = ("--records", "1e8", "--map", "1us", "--load", "4us", "--cache", "5M", "--aggregate", "0.5")
CATALOG = """
    [[machine]]
    name = "small"
    cores = 4
    memory = "16GB"
    disk = "200MB/s"
    network = "10Gbit/s"
    price = 0.19

    [[machine]]
    name = "large"
    cores = 16
    memory = "128GiB"
    disk = "1GB/s"
    network = "25Gbit/s"
    price = 0.77
    speed = 1.2
"""
PROGRAM = """
    import numpy as np
    import scalops as so

    @so.program
    def main(rows: int = 4096, iterations: int = 7):
        t = so.table({"x": np.arange(float(rows))})

        @so.loop({"s": 0.0}, range(iterations))
        def model(env):
            return {"s": t.map(lambda r: r.x * env["s"]).sum() * 1e-9}

        return model
"""


def whatif(*given: object) -> Result:
    """Call the command."""
    return CliRunner().invoke(cli, ["whatif", *map(str, given)])


# The rows of ARCHITECTURE.md §5: R, P, D, M, A, fastest, T, cheapest, machine-seconds.
ROWS = [
    ("1e6 1e-5 2e-5 2.5e5 0.05", "73.58", "0.720", "4", "10.75"),
    ("1e8 1e-6 4e-6 5e6 0.5", "73.58", "7.201", "20", "181.43"),
    ("1e8 1e-6 4e-6 5e6 5", "20", "45.716", "1.60", "478.22"),
    ("1e8 1e-6 4e-6 1e5 0.5", "367.88", "8.989", "1", "499.6"),
]


@pytest.mark.parametrize(("symbols", "fastest", "seconds", "cheapest", "cost"), ROWS)
def test_golden_rows(symbols: str, fastest: str, seconds: str, cheapest: str, cost: str) -> None:
    names = ("--records", "--map", "--load", "--cache", "--aggregate")
    result = whatif(*(a for pair in zip(names, symbols.split(), strict=True) for a in pair))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert lines["fastest"][1:4] == [fastest, seconds, "s"]
    assert lines["cheapest"][1:4] == [cheapest, cost, "machine-s"]


LATE = ("--deadline", "5", "--machines", "1..50,200")
SWEPT = ("--objective", "cost", "--sweep", "M=1e6..1e8", "--machines", "1..40")
TEXTS = {
    "symbols": (*GIVEN,),
    "limits": (*GIVEN, "--iterations", "30", "--price", "0.5/h", "--deadline", "10min"),
    "sweep": (*GIVEN, *SWEPT),
    "impossible": (*GIVEN, *LATE),
    "one": (*GIVEN, "--machines", "8"),
    "free": ("--records", "1e6", "--map", "1us"),
    "catalog": (
        *GIVEN,
        "--iterations",
        "50",
        "--budget",
        "3",
        "--catalog",
        "CATALOG",
        "--machines",
        "1..60",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_fits_a_terminal(name: str, write: Write, golden: Golden) -> None:
    file = write(CATALOG, "machines.toml")
    result = whatif(*(file if a == "CATALOG" else a for a in TEXTS[name]))
    assert result.exit_code == (1 if name == "impossible" else 0)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout
    golden(f"whatif/{name}.txt", result.stdout)


def test_no_cluster_in_time_is_a_failure_that_is_said() -> None:
    result = whatif(*TEXTS["impossible"])
    assert result.exit_code == 1
    assert result.stderr.startswith("PlanError: no cluster is done within the deadline of 5 s;")


# JSON.


def valid(value: Any, schema: dict[str, Any], whole: dict[str, Any], where: str = "$") -> None:
    """Assert what the keywords of our schema say: a subset of JSON Schema 2020-12."""
    known = {
        "$ref", "$schema", "$defs", "title", "description", "type", "const", "enum", "anyOf",
        "items", "properties", "required", "additionalProperties",
    }  # fmt: skip
    assert set(schema) <= known, where
    if "$ref" in schema:
        valid(value, whole["$defs"][schema["$ref"].removeprefix("#/$defs/")], whole, where)
    if "anyOf" in schema:
        null, other = value is None, [s for s in schema["anyOf"] if s != {"type": "null"}]
        if not null:
            valid(value, other[0], whole, where)
        assert len(schema["anyOf"]) == 1 + len(other) == 2, where
    assert value == schema.get("const", value), where
    assert value in schema.get("enum", [value]), where
    kinds = schema.get("type", "any")
    assert kinds == "any" or is_of(value, [kinds] if isinstance(kinds, str) else kinds), where
    if isinstance(value, list):
        for i, item in enumerate(value):
            valid(item, schema.get("items", {}), whole, f"{where}[{i}]")
    if isinstance(value, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        assert set(schema.get("required", ())) <= set(value), where
        assert rest is not False or set(value) <= set(properties), where
        for key, item in value.items():
            valid(item, properties.get(key, rest), whole, f"{where}.{key}")


def is_of(value: Any, kinds: list[str]) -> bool:
    """Whether a value is of one of these types of JSON."""
    types: dict[str, type] = {
        "object": dict,
        "array": list,
        "string": str,
        "null": type(None),
        "boolean": bool,
    }
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number" in kinds or ("integer" in kinds and isinstance(value, int))
    return any(isinstance(value, types[kind]) for kind in kinds if kind in types)


@pytest.mark.parametrize("name", ["sweep", "impossible", "one", "catalog"])
def test_json_is_as_its_schema_says(name: str, write: Write) -> None:
    file = write(CATALOG, "machines.toml")
    result = whatif(*(file if a == "CATALOG" else a for a in TEXTS[name]), "--format", "json")
    text = result.stdout
    assert not re.search(r"NaN|Infinity", text)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    valid(json.loads(text), schema, schema)


def test_json_has_what_the_model_says() -> None:
    found = json.loads(whatif(*TEXTS["limits"], "--format", "json").stdout)
    assert found["choice"]["machines"] == 20
    assert found["choice"]["fan_ins"] == [4, 5]
    # K·T(N) and the first pass's load: 30·(R·P/20 + 9·A) + R·D/20
    seconds = 30 * (1e8 * 1e-6 / 20 + 9 * 0.5) + 1e8 * 4e-6 / 20
    assert found["choice"]["total_seconds"] == pytest.approx(seconds)
    assert found["choice"]["money"] == pytest.approx(20 * seconds * 0.5 / 3600)
    assert [p["machines"] for p in found["points"]] == list(range(1, 501))
    assert found["question"]["symbols"]["price"]["provenance"] == "given"
    assert found["question"]["symbols"]["level"]["provenance"] == "not given"


def test_html_is_a_page() -> None:
    page = whatif(*GIVEN, "--format", "html").stdout
    assert page.startswith("<!doctype html>")


# A program.


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs that are over at once."""
    from scalops import sampled_runs

    monkeypatch.setattr(sampled_runs, "LEAST_SECONDS", 0.0)


def test_a_program_is_measured_and_scaled(write: Write, invoke: Invoke, quick_runs: None) -> None:
    path = write(PROGRAM)
    result = invoke(
        "whatif", "--records", "1e9", path, "--aggregate", "1s", "--format", "json",
        "--param-iterations", "9", "--rows", "8192", "--machines", "1,2,4",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    symbols = found["question"]["symbols"]
    known = {name: s["provenance"] for name, s in symbols.items()}
    assert (known["records"], known["aggregate"], known["price"]) == ("given", "given", "not given")
    assert (known["map"], known["iterations"], known["cache"]) == (
        "estimated",
        "exact",
        "estimated",
    )
    assert symbols["map"]["value"] > 0
    assert symbols["map"]["spread"] is not None
    assert (symbols["iterations"]["value"], symbols["records"]["value"]) == (9.0, 1e9)
    assert found["question"]["program"]["loop"] == "model"
    assert found["question"]["program"]["records"] == 8192
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    valid(found, schema, schema)


def test_a_program_on_machines_of_a_catalog(write: Write, quick_runs: None) -> None:
    file = write(CATALOG, "machines.toml")
    t = so.table({"x": [1.0, 2.0, 3.0] * 100})
    model = so.loop(0.0, range(5))(lambda s: t.map(lambda r: r.x * s).sum() * 1e-3)
    found = so.whatif(model, records="1G", iterations=11, catalog=file, machines="1..20")
    assert found.choice is not None
    assert found.choice.machine_type in ("small", "large")
    assert found.question.reference is not None
    assert found.question.reference.name == "this machine"
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "short runs" in text
    assert "They hold for 'this machine'" in text
    known = {c.name: c.provenance for c in found.constants}
    assert known["iterations"] == "given"
    with pytest.raises(ConfigError, match="loop is 'other'; expected one of"):
        so.whatif(model, loop="other")


def test_a_program_without_loops_fails(write: Write, invoke: Invoke) -> None:
    path = write(
        "import scalops as so\n@so.program\ndef main():\n    return so.table({'x': [1]})\n"
    )
    result = invoke("whatif", path)
    assert result.exit_code == 1
    message = "ConfigError: nothing of the program can be measured: the job has no loop"
    assert message in result.stderr


def test_loops_that_no_name_tells_apart_are_numbered(quick_runs: None) -> None:
    t = so.table({"x": [1.0, 2.0, 3.0] * 100})
    one = so.loop(0.0, range(5))(lambda s: t.map(lambda r: r.x * s).sum() * 1e-3)
    two = so.loop(1.0, range(6))(lambda s: t.map(lambda r: r.x + s).sum() * 1e-3)
    found = so.whatif(one, two, loop="loop 2", machines="1..3")
    assert found.program is not None
    assert (found.program.loop, found.program.other_loops) == ("loop 2", ("loop 1",))
    with pytest.raises(ConfigError, match=r"expected one of \['loop 1', 'loop 2'\]"):
        so.whatif(one, two, loop="loop 3")


def test_a_file_is_for_the_command() -> None:
    with pytest.raises(PlanError, match=r"whatif takes tables.* scalops whatif train\.py"):
        so.whatif("train.py")


def test_a_short_text_of_what_was_found() -> None:
    asked: dict[str, Any] = {"records": 1e8, "map": 1e-6, "aggregate": 0.5}
    assert repr(so.whatif(**asked)) == "<WhatIf: 81 machines, 7.23 s an iteration>"
    assert repr(so.whatif(**asked, machines=(1, 2), deadline=1)) == (
        "<WhatIf: none within the limits; 2 machines come nearest>"
    )


def test_numbers_are_as_long_as_they_have_to_be() -> None:
    text = str(so.whatif(records="100M", map=1, aggregate="0.5s"))
    assert re.search(r"^c +1  1_157 d  1_157 d +1e8 ", text, re.MULTILINE)
    assert {line.index("|") for line in text.splitlines() if "|" in line} == {10}
    assert "N_b = 73_576" in str(so.whatif(records="100M", map="1ms", aggregate="0.5s"))
    roomy = so.whatif(records=10, map=1, cache=1e4, aggregate=0.5)
    assert "R/M = 0.001: one machine caches everything" in str(roomy)


def test_a_flip_within_a_spread_is_said() -> None:
    found = so.whatif(records=1e8, map=1e-6, load=4e-6, cache=5e6, aggregate=0.5)
    at = next(f for f in found.flips if f.symbol == "aggregate").below
    assert at is not None
    assert at.factor is not None
    spreads = {0.9 * (1 - at.factor): "the decision holds.", 1.1 * (1 - at.factor): "spread of A."}
    for spread, said in spreads.items():
        constants = tuple(
            replace(c, spread=spread if c.name == "aggregate" else None) for c in found.constants
        )
        assert said in str(replace(found, constants=constants)).splitlines()[-1]


def test_spreads_count_together_and_a_busy_machine_is_never_sure() -> None:
    found = so.whatif(records=1e8, map=1e-6, load=4e-6, cache=5e6, aggregate=0.5)

    def said(spread: float, busy: str = "") -> str:
        constants = tuple(
            replace(c, spread=spread if c.name in ("map", "aggregate") else None)
            for c in found.constants
        )
        program = Program("model", "t", 1e8, 6, 1.0, 2, (), busy)
        lines = str(replace(found, constants=constants, program=program)).splitlines()
        return " ".join(lines[-2:])

    assert said(0.1).endswith("and the decision holds.")
    assert said(0.5).endswith("P, A together, each off by its spread, flip it.")  # none alone
    assert "Not sure: this machine is busy" in said(0.1, "this machine is busy: a load of 9")


# What is given.


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("records", "1e8", 1e8),
        ("records", "100M", 1e8),
        ("records", "2.5k", 2500.0),
        ("records", "1_000", 1000.0),
        ("cache", "all", float("inf")),
        ("map", "10us", 1e-5),
        ("map", "1.5e-6", 1.5e-6),
        ("map", ".5 ms", 5e-4),
        ("deadline", "2h", 7200.0),
        ("deadline", "90s", 90.0),
        ("deadline", "10min", 600.0),
        ("price", "0.50/h", 0.5),
        ("price", "0.5", 0.5),
        ("budget", "12k", 12_000.0),
        ("iterations", 30, 30.0),
    ],
)
def test_numbers_are_read(name: str, text: Any, value: float) -> None:
    assert arguments.read_number(name, text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1..4", (1, 2, 3, 4)),
        ("8,2,4", (2, 4, 8)),
        ("16", (16,)),
        ("1..3, 10", (1, 2, 3, 10)),
        (7, (7,)),
        (range(2, 5), (2, 3, 4)),
    ],
)
def test_machines_are_read(text: Any, counts: tuple[int, ...]) -> None:
    assert arguments.read_machines(text) == counts


def test_sweeps_are_read() -> None:
    name, values = arguments.read_sweep("M=1e6..1e8")
    assert (name, len(values), values[0], values[-1]) == ("cache", 13, 1e6, 1e8)
    ratios = [b / a for a, b in pairwise(values)]
    assert ratios == pytest.approx([100 ** (1 / 12)] * 12)
    assert arguments.read_sweep("level-overhead=0,1ms") == ("level", (0.0, 1e-3))
    assert arguments.read_sweep({"deadline": ["1h", 60]}) == ("deadline", (3600.0, 60.0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "records and map are not given; expected at least records and map"),
        ("--map 1us", "records is not given"),
        ("--records many --map 1us", "records is 'many'; expected a number such as 1e8"),
        ("--records -5 --map 1us", "records is '-5'; expected"),
        ("--records 1e400 --map 1us", "records is '1e400'; expected"),
        ("--records 0 --map 1us", "records is 0; expected a number, more than 0"),
        ("--records nan --map 1us", "records is 'nan'; expected"),
        ("--records 1e6 --map 5m", "map is '5m'; expected seconds, or a time such as '10us'"),
        (
            "--records 1e6 --map 1us --iterations 0.5",
            "iterations is 0.5; expected a number from 1 to 1e+12",
        ),
        ("--records 1e19 --map 1us", "records is 1e+19; expected a number from 1e-06 to 1e+18"),
        ("--records 1e6 --map 1e300", "map is 1e+300; expected 0, or a number from 1e-15 to 1e+12"),
        ("--records 1e6 --map 1us --level-overhead 1e-20", "level is 1e-20; expected 0, or a nu"),
        ("--records 1e6 --map 1us --sweep A=1e-50,1", "aggregate is 1e-50; expected 0, or a numbe"),
        ("--records 1e6 --map 1us --sweep A=1e-20..1", "aggregate is 1e-20; expected 0, or a num"),
        ("--records 1e6 --map 1us --price 3/min", "price is '3/min'; expected the price of a mac"),
        ("--records 1e6 --map 1us --deadline soon", "deadline is 'soon'; expected seconds, or a t"),
        ("--records 1e6 --map 1us --deadline 0", "deadline is 0; expected a number, more than 0"),
        ("--records 1e6 --map 1us --budget 0", "budget is 0; expected a number, more than 0"),
        ("--records 1e6 --map 1us --machines 5..1", "machines is '5..1'; expected machine counts"),
        ("--records 1e6 --map 1us --machines 0", "machines is '0'; expected machine counts"),
        ("--records 1e6 --map 1us --machines 1..2e9", "machines is '1..2e9'; expected machine cou"),
        ("--records 1e6 --map 1us --machines ,", "machines is ','; expected machine counts"),
        ("--records 1e6 --map 1us --sweep cache", "sweep is 'cache'; expected one constant and it"),
        ("--records 1e6 --map 1us --sweep speed=1..2", "sweep names 'speed'; expected one of"),
        ("--records 1e6 --map 1us --sweep cache=5..1", "expected a range from more than 0"),
        (
            "--records 1e6 --map 1us --sweep K=0.1,2",
            "iterations is 0.1; expected a number from 1 to 1e+12",
        ),
        ("--records 1e6 --map 1us --catalog no.toml", "catalog 'no.toml' cannot be read"),
        ("--records 1e6 --map 1us --loop x", "loop is 'x', and there is no program"),
        ("--records 1e6 --map 1us --workers 2", "--workers goes with a program"),
        ("--records 1e6 --map 1us --objective speed", "'speed' is not one of 'time', 'cost'"),
        ("--records 1e6 --mapp 1us", "No such option '--mapp'. Did you mean '--map'"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(given: str, said: str) -> None:
    result = whatif(*given.split())
    assert result.exit_code == 2, result.stdout
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_price_beside_a_catalog_is_wrong_usage(write: Write) -> None:
    file = write(CATALOG, "machines.toml")
    result = whatif(*GIVEN, "--catalog", file, "--price", "1")
    assert result.exit_code == 2
    assert "price is given beside a catalog" in result.stderr


def test_wrong_values_are_found_before_a_program_is_measured(write: Write, invoke: Invoke) -> None:
    result = invoke("whatif", write(PROGRAM), "--deadline", "soon")
    assert result.exit_code == 2
    assert "deadline is 'soon'" in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"records": True}, "records is True; expected"),
        ({"records": [1]}, "records is [1]; expected"),
        ({"map": float("nan")}, "map is nan; expected"),
        ({"aggregate": 1e308}, "aggregate is 1e+308; expected 0, or a number from 1e-15 to"),
        ({"deadline": float("inf")}, "deadline is inf; expected a number from 1e-15 to 1e+30"),
        ({"budget": float("inf")}, "budget is inf; expected a number from 1e-15 to 1e+30, or none"),
        ({"machines": 2.5}, "machines is 2.5; expected"),
        ({"machines": [1, 2.5]}, "machines has 2.5; expected"),
        ({"machines": []}, "machines are none; expected"),
        ({"objective": "speed"}, "objective is 'speed'; expected 'time' or 'cost'"),
        ({"sweep": {"cache": []}}, "expected at least one value of cache"),
        ({"sweep": 3}, "sweep is 3; expected one constant"),
    ],
)
def test_what_makes_no_sense_is_a_config_error(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        so.whatif(**({"records": 1e6, "map": 1e-6} | given))
    assert said in str(raised.value)


_EXTREMES: tuple[dict[str, Any], ...] = (
    {"records": 1e18, "map": 1e12, "load": 1e12, "cache": 1e-6, "aggregate": 1e12, "level": 1e-15},
    {"records": 1e-6, "map": 1e-15, "load": 1e-15, "aggregate": 1e-15, "level": 1e12, "price": 0.0},
    {"records": 1e8, "map": 1e-12, "load": 1, "cache": 5e6, "aggregate": 0.5, "price": 1e-12},
)


@pytest.mark.parametrize("symbols", _EXTREMES, ids=range(len(_EXTREMES)))
@pytest.mark.parametrize("machines", ["1", "1,7,1000"])
def test_extreme_numbers_fit_a_terminal_and_are_json(
    symbols: dict[str, Any], machines: str
) -> None:
    more: dict[str, Any] = {"iterations": 1e9, "broadcast": 1e12, "machines": machines}
    found = so.whatif(**({"price": 1e12} | symbols | more))
    assert max(map(len, str(found).splitlines())) <= 80
    assert "nan" not in str(found)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    valid(json.loads(found.to_json()), schema, schema)
