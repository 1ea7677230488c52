"""Pages in Chromium: they open without a word, fold, search, switch; nothing is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scalops.reports.plan_page import plan_page
from tests.reports.browser import Browser
from tests.reports.pages import analyzed, explained, profile

pytestmark = pytest.mark.long

SHOWN = "[role=tabpanel]:not([hidden])"
ROWS = f"{SHOWN} [role=treeitem]"
DOWN, UP, RIGHT, LEFT, HOME, END, ENTER, ESCAPE = (
    *("\ue015", "\ue013", "\ue014", "\ue012", "\ue011", "\ue010", "\ue007", "\ue00c"),
)


def titles(browser: Browser) -> list[str]:
    """The titles of the lines that are to be seen."""
    return browser.shown(f"{ROWS} .code:not(dd)")


def chosen(browser: Browser) -> str:
    return browser.one(f"{ROWS}[aria-selected=true] .code:not(dd)").text


def lines(node: dict[str, Any]) -> list[str]:
    """Titles of a display tree, in order."""
    return [node["title"], *(t for c in node.get("children", []) for t in lines(c))]


@pytest.fixture
def text() -> str:
    """A page with a tab for each stage, and the rules."""
    return explained("logistic", stage="all", format="html", trace=True)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["plan", "attacked", "analyzed"])
def test_every_view_opens_without_a_word_or_a_request(
    browser: Browser, text: str, name: str, dark: bool, width: int
) -> None:
    page = {"plan": text, "analyzed": plan_page(analyzed())}.get(name)
    if page is None:
        page = explained("attacked", stage="all", format="html", trace=True)
    browser.open(page, width=width, dark=dark)
    for tab in browser.all("[role=tab]"):
        tab.click()
        assert browser.one(SHOWN).text
        wide = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1]
        browser.screenshot(f"{name}-{tab.text.lower()}-{'dark' if dark else 'light'}-{width}")
    assert browser.said() == []
    assert [url.rsplit("/", 1)[1] for url in browser.asked_for()] == ["page.html"]
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)"
    )


def test_a_tab_for_each_stage_shows_its_lines(browser: Browser, text: str) -> None:
    browser.open(text)
    assert browser.shown("[role=tab]") == ["Traced", "Logical", "Optimized", "Physical", "Rules"]
    assert browser.one("[role=tab][aria-selected=true]").text == "Optimized"
    stages = json.loads(explained("logistic", stage="all", format="json"))["stages"]
    for tab, stage in zip(browser.all("[role=tab]"), stages.values(), strict=False):
        tab.click()
        assert titles(browser) == lines(stage)
    browser.press(RIGHT)
    assert browser.one("[role=tab][aria-selected=true]").text == "Rules"
    assert "cache_invariants" in browser.one(SHOWN).text


def test_folding_by_click(browser: Browser, text: str) -> None:
    browser.open(text)
    before = titles(browser)
    loop = browser.all(ROWS)[1]
    twist = loop.find_element("css selector", ".twist")
    twist.click()
    assert titles(browser) == before[:2]
    assert loop.get_attribute("aria-expanded") == "false"
    twist.click()
    assert titles(browser) == before
    collapse = next(b for b in browser.all(f"{SHOWN} button") if b.text == "Collapse all")
    expand = next(b for b in browser.all(f"{SHOWN} button") if b.text == "Expand all")
    collapse.click()
    assert titles(browser) == before[:2]
    expand.click()
    assert titles(browser) == before


def test_folding_and_walking_by_keyboard(browser: Browser, text: str) -> None:
    browser.open(text)
    before = titles(browser)
    browser.all(ROWS)[0].click()
    browser.press(DOWN)
    assert chosen(browser) == before[1]
    browser.press(LEFT)
    assert titles(browser) == before[:2]
    browser.press(RIGHT)
    assert titles(browser) == before
    browser.press(RIGHT)
    assert chosen(browser) == before[2]
    browser.press(END)
    assert chosen(browser) == before[-1]
    browser.press(UP)
    assert chosen(browser) == before[-2]
    browser.press(HOME)
    browser.press(ENTER)
    assert titles(browser) == before[:1]
    assert browser.run("return document.activeElement.getAttribute('aria-level')") == "1"


def test_the_chosen_line_is_described_and_linked(browser: Browser, text: str) -> None:
    browser.open(text)
    above = next(r for r in browser.all(ROWS) if "as above" in r.text)
    link = above.find_element("css selector", ".link")
    link.click()
    assert chosen(browser).startswith("@1 Cache")
    assert "as above" not in chosen(browser)
    panel = browser.one(f"{SHOWN} aside").text
    assert "written at pages.py:" in panel
    assert "computed once by cache_invariants" in panel
    assert "read by" in panel


def test_search_marks_what_it_finds(browser: Browser, text: str) -> None:
    browser.open(text)
    browser.all(f"{SHOWN} .twist")[1].click()  # what is folded away is found, and shown
    field = browser.one(f"{SHOWN} input[type=search]")
    field.send_keys("LOG1P(X)")
    (row,) = (r for r in browser.all(f"{ROWS}.found"))
    assert row.is_displayed()
    assert browser.shown(f"{SHOWN} .tree mark") == ["log1p(x)"]
    assert f"1 of {len(titles(browser))} lines" in browser.one(SHOWN).text
    field.send_keys(ENTER)
    assert chosen(browser).endswith("x = log1p(x)")
    browser.screenshot("search")
    field.send_keys(ESCAPE)
    assert browser.all(f"{ROWS}.found") == browser.all(f"{SHOWN} mark") == []


def test_estimates_stand_beside_what_was_measured(browser: Browser) -> None:
    browser.open(plan_page(analyzed()))
    scan = next(r for r in browser.all(ROWS) if r.text.startswith("TableScan"))
    cells = [c.text for c in scan.find_elements("css selector", ".cell")]
    assert cells == ["500\n500", "20 KB\n20 KB", "2 ms\n9 ms 4.5×", "1 ms\n1.1 ms", ""]
    browser.point_at(scan.find_elements("css selector", ".cell")[2])
    tip = browser.one("#tip")
    assert tip.is_displayed()
    assert tip.text.splitlines()[1:] == [
        *("estimate: 2 ms", "assumed: no measurement stands behind it", "measured: 9 ms"),
        "off by a factor of 4.5",
    ]
    browser.screenshot("tooltip")
    browser.point_at(browser.one("h1"))
    assert not tip.is_displayed()


def test_a_plan_that_ran_shows_its_estimates_and_its_time(browser: Browser) -> None:
    browser.open(explained("logistic", analyze=True, format="html"))
    data = json.loads(browser.one("#data").get_attribute("textContent") or "")
    loop = data["analysis"]["profile"]["loops"][0]
    assert loop["iterations"] == 5
    marks = [m.text for m in browser.all(f"{SHOWN} .figure .off") if m.text]
    assert all(m.endswith("×") for m in marks)
    scan = next(r for r in browser.all(ROWS) if r.text.startswith("TableScan"))
    assert scan.find_element("css selector", ".cell").text == "500\n500"
    browser.one("#tab-time").click()
    assert len(browser.all(f"{SHOWN} figure .hit")) == 5
    assert "5 iterations: the first " in browser.one(SHOWN).text
    assert browser.said() == []


def test_the_timeline_tells_each_iteration(browser: Browser) -> None:
    browser.open(plan_page(analyzed()))
    browser.one("#tab-time").click()
    columns = browser.all(f"{SHOWN} figure .hit")
    assert len(columns) == 3
    browser.point_at(columns[1])
    assert browser.one("#tip").text.splitlines() == [
        "iteration 2: 12 ms",
        *(f"{p}: 2 ms" for p in ("load", "map", "aggregate", "broadcast", "update", "wait")),
    ]
    heights = [
        float(bar.get_attribute("height") or 0)
        for bar in columns[2].find_elements("css selector", "rect[class]")
    ]
    assert heights == pytest.approx([heights[0]] * 6)
    assert "9 of 12" in browser.one(SHOWN).text


def test_many_iterations_share_columns(browser: Browser) -> None:
    data = analyzed()
    data["analysis"]["profile"] = profile(1_000)
    browser.open(plan_page(data))
    browser.one("#tab-time").click()
    columns = browser.all(f"{SHOWN} figure .hit")
    assert len(columns) == 200
    first, last = (columns[i].get_attribute("data-tip") or "" for i in (0, -1))
    # Iterations 1 to 5 take 6, 12, ..., 30 ms.
    assert first.startswith("iterations 1 to 5, on the average: 18 ms\nload: 3 ms")
    assert last.startswith("iterations 996 to 1000, on the average: 5.99 s")


def test_the_tree_of_workers_is_drawn(browser: Browser) -> None:
    browser.open(plan_page(analyzed()))
    browser.one("#tab-workers").click()
    assert sorted(browser.shown(f"{SHOWN} svg text")) == ["0", "1", "2", "3", "4", "driver"]
    assert len(browser.all(f"{SHOWN} svg .edge")) == 5
    assert browser.shown(".homes > div") == ["0", "1", "2", "3"]
    assert "1 of 5 have none" in browser.one(SHOWN).text
    browser.point_at(browser.all(".homes > div")[1])
    assert browser.one("#tip").text == "rank 1: partitions 3–5"


def test_scripts_in_a_plan_are_text(browser: Browser) -> None:
    browser.open(explained("attacked", stage="all", format="html"))
    assert any("</script><script>alert(1)</script>" in t for t in titles(browser))
    assert browser.all("img") == []
    assert browser.said() == []


def test_all_details_are_printed(browser: Browser, text: str) -> None:
    browser.open(text)
    browser.all(f"{SHOWN} .twist")[1].click()
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        seen = browser.one("body").text
        assert "MapReduceUpdate one pass each iteration" in seen
        assert "fuse_map_reduce_update" in seen
        assert "CacheTable t1, computed once" in seen
        assert "Collapse all" not in seen
        browser.screenshot("print")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_deep_plan_opens(browser: Browser) -> None:
    root: dict[str, Any] = {"title": "Job"}
    deepest = root
    for i in range(300):
        deepest["children"] = [{"title": f"Limit {i}"}]
        deepest = deepest["children"][0]
    browser.open(plan_page({"version": 1, "stages": {"traced": root}}), width=400)
    assert len(browser.all(ROWS)) == 301
    assert browser.said() == []
