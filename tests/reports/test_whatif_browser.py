"""The what-if page in Chromium: sliders move, and all that is shown is what Python says."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

import scalops as so
from scalops.algebra.figures import seconds_text
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.catalog import MachineType
from scalops.optimizer.costs.integer_plan import Point
from scalops.optimizer.costs.whatif import alternatives, answer
from tests.reports.browser import Browser
from tests.reports.test_whatif_page import TYPES, asked, catalog

pytestmark = pytest.mark.long

RIGHT, LEFT, HOME, END, ESCAPE, CONTROL = (
    *("\ue014", "\ue012", "\ue011", "\ue010", "\ue00c", "\ue009"),
)
SYMBOLS = ("records", "map", "load", "cache", "aggregate", "broadcast", "level", "iterations")


def command(browser: Browser) -> dict[str, Any]:
    """The options of the command that the page gives."""
    words = shlex.split(browser.one("#command").text)
    assert words[:2] == ["scalops", "whatif"]
    pairs = zip(words[2::2], words[3::2], strict=True)
    return {option[2:].removesuffix("-overhead"): value for option, value in pairs}


def python_says(browser: Browser, **more: Any) -> so.WhatIf:
    """What so.whatif answers to the command."""
    return so.whatif(**{**command(browser), **more})


def figures(browser: Browser) -> dict[str, str]:
    """The figures of the recommendation, as numbers in full."""
    found = browser.all("#answer data")
    return {str(e.get_attribute("class")): str(e.get_attribute("value")) for e in found}


def check_recommended(browser: Browser, wanted: Point) -> None:
    shown = figures(browser)
    assert int(shown["machines"]) == wanted.machines
    assert shown["tree"] == ",".join(map(str, wanted.fan_ins))
    assert float(shown["seconds"]) == pytest.approx(wanted.seconds, rel=1e-9)
    assert float(shown["total"]) == pytest.approx(wanted.total_seconds, rel=1e-9)
    assert float(shown["cost"]) == pytest.approx(wanted.cost, rel=1e-9)
    name = wanted.machine_type
    many = "machine" if wanted.machines == 1 else "machines"
    typed = f"{wanted.machines} {many}" + (f" of {name}" if name else "")
    assert browser.one("#answer .headline .machines").text == typed


def settle(browser: Browser) -> None:
    """Wait until flip points are there: they follow a change."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser.driver, 20, 0.02).until(
        lambda _: browser.one("#flips").get_attribute("aria-busy") == "false"
    )


def curve(browser: Browser, chart: str, look: str) -> list[tuple[float, float]]:
    """Machines and values along a line of a chart, read off by its axes' ticks."""
    return [
        (10 ** float(x), float(y))
        for x, y in browser.run(
            """
            const chart = document.getElementById(arguments[0]);
            const ticks = (g, at) => [...g.querySelectorAll("text")].filter((t) => t.textContent)
              .map((t) => [Number(t.getAttribute(at)), Number(t.textContent.replace("_", ""))])
              .filter(([, v]) => !Number.isNaN(v));
            const [ys, xs] = [...chart.querySelectorAll(".axis")];
            const line = (t) => ([a, b] = [t[0], t[t.length - 1]],
              (p) => a[1] + (p - a[0]) / (b[0] - a[0]) * (b[1] - a[1]));
            let a, b;
            const ty = ticks(ys, "y").map(([p, v]) => [p - 4, v]);
            const tx = ticks(xs, "x").map(([p, v]) => [p, Math.log10(v)]);
            const xOf = ((t) => { const [u, w] = [t[0], t[t.length - 1]];
              return (p) => u[1] + (p - u[0]) / (w[0] - u[0]) * (w[1] - u[1]); });
            const [fx, fy] = [xOf(tx), xOf(ty)];
            const d = chart.querySelector(`path.curve.${arguments[1]}`).getAttribute("d");
            return d.slice(1).split("L").map((p) => p.split(",").map(Number))
              .map(([x, y]) => [fx(x), fy(y)]);
            """,
            chart,
            look,
        )
    ]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["symbols", "catalog", "refused"])
def test_opens_without_a_word_or_a_request(
    browser: Browser, name: str, dark: bool, width: int
) -> None:
    more: dict[str, dict[str, Any]] = {
        "symbols": {"price": 0.5, "iterations": 100, "sweep": "cache=1e6..1e8"},
        "catalog": {"catalog": catalog(*TYPES), "deadline": "1000s", "iterations": 100},
        "refused": {"machines": (1, 2, 4, 8, 16, 32), "deadline": 5},
    }
    found = asked(**more[name])
    browser.open(found.to_html(), width=width, dark=dark, height=1500)
    settle(browser)
    browser.screenshot(f"whatif-{name}-{'dark' if dark else 'light'}-{width}")
    check_recommended(browser, found.answer.nearest)
    assert (browser.shown("#answer .refusal") != []) == (found.choice is None)
    wide = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]
    assert browser.said() == []
    assert [url.rsplit("/", 1)[1] for url in browser.asked_for()] == ["page.html"]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_slider_moves_the_recommendation_to_what_python_says(
    browser: Browser, symbol: str
) -> None:
    found = asked(iterations=30, price=0.5)
    first = found.question.symbols
    browser.open(found.to_html())
    slider = browser.one(f"#slide-{symbol}")
    seen = set()
    for keys in (RIGHT * 23, RIGHT * 40, LEFT * 110, HOME, END):
        slider.send_keys(keys)
        wanted = python_says(browser)
        assert wanted.choice is not None
        check_recommended(browser, wanted.choice)
        assert ("more might be better" in browser.one("#remarks").text) == wanted.answer.at_bound
        moved = getattr(wanted.question.symbols, symbol) != getattr(first, symbol)
        assert ("changed" in browser.one(f".symbol:has(#slide-{symbol})").text) == moved
        seen.add(browser.one("#command").text)
        shown = browser.one(f"#field-{symbol}").get_attribute("value")
        assert shown == command(browser)[symbol]
    assert len(seen) >= 4  # of what begins with 0 two are the left end
    assert browser.said() == []


def test_curves_follow_a_slider(browser: Browser) -> None:
    browser.open(asked(price=0.5, iterations=10).to_html())
    before = curve(browser, "time", "sum")
    browser.one("#slide-aggregate").send_keys(LEFT * 30)
    wanted = python_says(browser)
    drawn = {"time": curve(browser, "time", "sum"), "cost": curve(browser, "cost", "whole")}
    assert drawn["time"] != before
    for (n, seconds), point in zip(drawn["time"], wanted.answer.points, strict=True):
        assert n == pytest.approx(point.machines, rel=0.01)
        assert seconds == pytest.approx(point.seconds, rel=0.01, abs=0.02)
    for (_, money), point in zip(drawn["cost"], wanted.answer.points, strict=True):
        assert money == pytest.approx(point.money, rel=0.02, abs=0.02)
    first = asked(price=0.5, iterations=10).answer.points
    for (_, seconds), point in zip(curve(browser, "time", "before"), first, strict=True):
        assert seconds == pytest.approx(point.seconds, rel=0.01, abs=0.02)
    for n, seconds in curve(browser, "time", "closed"):
        own = closed_form.seconds(wanted.question.symbols, max(1.0, min(n, 500.0)))
        assert seconds == pytest.approx(own, rel=0.02, abs=0.02)


def test_marks_and_flip_points_follow(browser: Browser) -> None:
    browser.open(asked().to_html())
    for keys in ("", RIGHT * 30):
        browser.one("#slide-aggregate").send_keys(keys)
        settle(browser)
        wanted = python_says(browser)
        texts = {t for e in browser.all("#time .mark text") if (t := e.text)}
        assert texts == {
            f"best, fastest {wanted.fastest.machines}",
            *(
                {f"cheapest, R/M {wanted.cheapest.machines}"}
                if wanted.cheapest.machines == 20
                else {f"cheapest {wanted.cheapest.machines}", "R/M 20"}
            ),
        }
        for flip in wanted.flips:
            if flip.symbol == "iterations":  # a second iteration, the first of which loads all
                two = python_says(browser, iterations=2).choice
                assert two is not None
                assert browser.one("#first-load").text.endswith(f"{two.machines} machines.")
                assert not browser.all("#flips [data-symbol=iterations]")
                continue
            cells = browser.all(f"#flips [data-symbol={flip.symbol}] td")[1:]
            marks = browser.all(f".symbol:has(#slide-{flip.symbol}) .marks .flip")
            changes = [c for c in (flip.below, flip.above) if c is not None]
            assert len(marks) == len(changes)
            shown_changes = zip((flip.below, flip.above), cells[::2], cells[1::2], strict=True)
            for change, value, then in shown_changes:
                if change is None:
                    assert value.text == "–"
                    continue
                shown = float(value.get_attribute("data-value") or "nan")
                assert shown == pytest.approx(change.value, rel=1e-6)
                assert then.get_attribute("data-machines") == str(change.machines)


def type_into(browser: Browser, field: str, text: str) -> None:
    browser.one(f"#field-{field}").send_keys(CONTROL + "a" + CONTROL + text)


def test_fields_take_numbers_with_units_and_say_what_they_expect(browser: Browser) -> None:
    browser.open(asked().to_html())
    for field, text, value in (
        ("records", "250M", 2.5e8),
        ("map", "2us", 2e-6),
        ("cache", "all", math.inf),
        ("aggregate", "80ms", 0.08),
        ("price", "0.50/h", 0.5),
        ("iterations", "1e2", 100.0),
    ):
        type_into(browser, field, text)
        wanted = python_says(browser)
        assert getattr(wanted.question.symbols, field) == value
        assert wanted.choice is not None
        check_recommended(browser, wanted.choice)
    kept = browser.one("#command").text
    for field, text in (("map", "fast"), ("records", "0"), ("machines", "many"), ("map", "-1")):
        type_into(browser, field, text)
        assert browser.one(f"#field-{field}").get_attribute("aria-invalid") == "true"
        assert browser.one(f"#says-{field}").text.startswith("expected")
        assert browser.one("#command").text == kept
        type_into(browser, field, {"map": "2us", "records": "250M", "machines": "1..500"}[field])
        assert browser.one(f"#field-{field}").get_attribute("aria-invalid") == "false"


def test_what_is_not_understood_stays_and_does_nothing(browser: Browser) -> None:
    browser.open(asked().to_html())
    kept, first = browser.one("#command").text, figures(browser)
    for field, text in (
        *(("map", "1m"), ("load", "5 minutes"), ("records", "1,000,000"), ("cache", "16GB")),
        *(("aggregate", "0.5sec"), ("level", "-1"), ("iterations", "0"), ("machines", "1..20x")),
        *(("deadline", "2 hours"), ("budget", "5$")),
    ):
        type_into(browser, field, text + "\ue004")  # Tab
        box = browser.one(f"#field-{field}")
        assert (box.get_attribute("value"), box.get_attribute("aria-invalid")) == (text, "true")
        assert browser.one(f"#says-{field}").text.startswith("expected")
        assert (browser.one("#command").text, figures(browser)) == (kept, first), field
    browser.one("#slide-map").send_keys(RIGHT)
    assert browser.one("#field-map").get_attribute("aria-invalid") == "false"
    assert browser.one("#says-map").text == ""


def test_machines_objective_and_limits(browser: Browser) -> None:
    browser.open(asked(iterations=10).to_html())
    browser.one("[name=objective][value=cost]").click()
    wanted = python_says(browser)
    assert wanted.choice == wanted.cheapest
    check_recommended(browser, wanted.cheapest)
    type_into(browser, "deadline", "85s")
    wanted = python_says(browser)
    assert wanted.choice is not None
    assert wanted.choice.machines not in (wanted.cheapest.machines, wanted.fastest.machines)
    check_recommended(browser, wanted.choice)
    assert browser.all("#time .veil")
    type_into(browser, "machines", "1..10,16,64")
    assert python_says(browser).question.machines == (*range(1, 11), 16, 64)
    check_recommended(browser, python_says(browser).answer.nearest)
    type_into(browser, "budget", "1")
    wanted = python_says(browser)
    assert wanted.choice is None
    assert browser.one("#answer .refusal").text.startswith("No cluster")


def test_other_ways_to_aggregate_are_told(browser: Browser) -> None:
    browser.open(asked(level=0.02).to_html())
    browser.one("#slide-aggregate").send_keys(RIGHT * 10)
    wanted = python_says(browser)
    text = browser.one("#ways").text
    ways = alternatives(wanted.question, wanted.answer.nearest)
    assert [w.kind for w in ways] == ["tree", "binary tree", "flat", "ring"]
    places = [text.index(seconds_text(w.seconds), text.index(w.kind)) for w in ways]
    assert places == sorted(places)


@pytest.mark.parametrize("fan_in", ["2", "8", "e"])
def test_fan_ins(browser: Browser, fan_in: str) -> None:
    found = asked(broadcast=0.1)
    browser.open(found.to_html())
    browser.run(
        "const s = document.getElementById('field-fanIn'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('change'));",
        fan_in,
    )
    s, n = found.question.symbols, int(figures(browser)["machines"])
    if fan_in == "e":
        seconds = closed_form.seconds(s, n)
        assert abs(n - closed_form.fastest(s)) < 1
    else:
        parts, blocks, up = closed_form.parts(s, n), n, 0.0
        while blocks > 1:
            up += s.aggregate * min(int(fan_in), blocks)
            blocks = -(-blocks // int(fan_in))
        seconds = parts.map + parts.load + up + s.broadcast * math.ceil(math.log2(n))
    assert float(figures(browser)["seconds"]) == pytest.approx(seconds, rel=1e-9)
    settle(browser)
    assert "best trees" in browser.one("#flips").text
    assert not browser.all(".marks .flip")


def test_a_catalogs_types(browser: Browser) -> None:
    types = catalog(*TYPES)
    browser.open(asked(catalog=types, iterations=100).to_html())
    assert not browser.all("#slide-price")
    browser.one("#slide-map").send_keys(RIGHT * 40)
    given = command(browser)
    assert given.pop("catalog") == "machines.toml"
    wanted = so.whatif(**given, catalog=types)
    check_recommended(browser, wanted.answer.nearest)
    for one in TYPES:
        browser.run(
            "const s = document.getElementById('field-type'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'));",
            one.name,
        )
        own = min(wanted.answer.of_type(one.name), key=lambda p: p.total_seconds)
        check_recommended(browser, own)
    assert browser.said() == []


def test_reset_brings_back_the_first_question(browser: Browser) -> None:
    browser.open(asked().to_html())
    settle(browser)
    first = browser.one("#whatif").get_attribute("innerHTML")
    browser.one("#slide-map").send_keys(END)
    browser.one("#slide-cache").send_keys(HOME)
    browser.one("[name=objective][value=cost]").click()
    type_into(browser, "deadline", "1h")
    type_into(browser, "level", "nonsense")
    browser.one("#reset").click()
    settle(browser)
    check_recommended(browser, asked().fastest)
    places = r' aria-(?:invalid|valuetext)="[^"]*"'
    again = browser.one("#whatif").get_attribute("innerHTML")
    assert re.sub(places, "", str(again)) == re.sub(places, "", str(first))


def test_the_command_is_copied(browser: Browser) -> None:
    browser.open(asked().to_html())
    browser.one("#copy").click()
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser.driver, 20, 0.02).until(lambda _: browser.one("#copied").text)
    if browser.one("#copied").text != "Copied.":  # without a permission it is selected
        assert browser.run("return getSelection().toString()") == browser.one("#command").text


def test_charts_tell_figures_to_pointer_and_keys(browser: Browser) -> None:
    found = asked()
    browser.open(found.to_html(), height=1400)
    settle(browser)
    browser.point_at(browser.one("#time .over"))
    assert "per iteration" in browser.one("#tip").text
    over = browser.one("#cost .over")
    over.send_keys(HOME)
    assert browser.one("#tip").text.startswith("1 machine\n")
    over.send_keys(RIGHT * 4)
    assert browser.one("#tip").text.startswith("5 machines, tree 5\n")
    assert over.get_attribute("aria-valuenow") == "5"
    browser.press(ESCAPE)
    assert browser.shown("#tip") == []


def test_the_command_holds_for_the_catalogs_reference(browser: Browser) -> None:
    """A program is measured on a machine that need not be of the catalog."""
    types, here = catalog(*TYPES), MachineType("this machine", 2, 8e9, 5e8, 2e9)
    found = asked(catalog=types)
    question = replace(found.question, reference=here)
    browser.open(replace(found, question=question, answer=answer(question)).to_html())
    check_recommended(browser, answer(question).nearest)
    browser.one("#slide-load").send_keys(RIGHT * 60)
    wanted = so.whatif(**{**command(browser), "catalog": types})
    assert wanted.question.symbols.map != 1e-6
    check_recommended(browser, wanted.answer.nearest)


def test_the_type_of_machines_that_is_shown_is_the_one_that_is_asked(browser: Browser) -> None:
    from selenium.webdriver.support.ui import Select

    types = [replace(TYPES[i % 2], name=name) for i, name in enumerate(("small", "16", "best"))]
    found = asked(catalog=catalog(*types))
    browser.open(found.to_html())
    select = Select(browser.one("#field-type"))
    assert [o.text.split(",")[0] for o in select.options] == ["any", "small", "16", "best"]
    assert select.first_selected_option.text == "any"
    select.select_by_value("16")
    assert " of 16" in browser.one("#answer .machines").text
    browser.one("#reset").click()
    assert select.first_selected_option.text == "any"
    check_recommended(browser, found.answer.nearest)
    fan_ins = [o.text for o in Select(browser.one("#field-fanIn")).options]
    assert fan_ins == ["best", "2", "3", "4", "8", "e, the closed form"]


def test_one_machine_is_fastest(browser: Browser) -> None:
    browser.open(asked(machines=1).to_html())
    assert browser.one("#answer .headline").text == "1 machine is fastest"


def test_symbols_beyond_the_bounds_are_refused_on_the_page_too(browser: Browser) -> None:
    browser.open(asked().to_html())
    kept = browser.one("#command").text
    for field, text in (("map", "1e13"), ("aggregate", "1e-20"), ("records", "1e19")):
        type_into(browser, field, text)
        assert browser.one(f"#field-{field}").get_attribute("aria-invalid") == "true"
        symbols: dict[str, Any] = {"records": "1e8", "map": "1us", field: text}
        with pytest.raises(so.ConfigError, match=field):
            so.whatif(**symbols)
        assert browser.one("#command").text == kept
