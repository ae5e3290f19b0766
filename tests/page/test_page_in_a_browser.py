"""The whole page of a comparison in Chromium: it draws, sorts, filters and can be read by all, and keeps to itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Opened, expect, open_file, serious_findings
from support.comparisons import make_large
from support.hostile import HOSTILE, make_hostile

from circuitkit.page.page import write_report


def visit(opened: Opened) -> None:
    """Scroll to every chart and to the circuit, so that they are drawn, and wait for them."""
    for place in opened.page.locator(".chart, #circuit-viewer").all():
        place.scroll_into_view_if_needed()
    waiting = opened.page.locator(".chart:not([data-drawn]), #circuit-viewer:not([data-drawn])")
    expect(waiting).to_have_count(0)  # not a function of ours, which the page's policy may forbid


@pytest.fixture(scope="module")
def report(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(compared, tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="module")
def desktop(browser: Any, report: Path) -> Iterator[Opened]:
    opened = open_file(browser, report)
    visit(opened)
    yield opened
    opened.page.close()


@pytest.fixture(scope="module")
def hostile(browser: Any, compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = make_hostile(Path(shutil.copytree(compared, tmp_path_factory.mktemp("hostile") / "out")))
    opened = open_file(browser, write_report(folder)[0])
    visit(opened)
    yield opened
    opened.page.close()


def order(opened: Opened) -> list[str]:
    """The methods of the leaderboard that are shown, from the top."""
    names: list[str] = opened.page.locator("#leaderboard-table tbody tr:visible th").all_inner_texts()
    return names


def header(opened: Opened, name: str) -> Any:
    return opened.page.locator("#leaderboard-table th[data-column]").filter(has_text=name).first


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True), (390, True)])
def test_the_page_keeps_to_itself_and_to_its_window(browser: Any, report: Path, width: int, dark: bool) -> None:
    opened = open_file(browser, report, width, dark)
    visit(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_findings(opened.page) == []
    assert opened.complaints == []
    assert opened.requests == []
    opened.page.close()


def test_every_chart_is_drawn_and_described(desktop: Opened) -> None:
    charts = desktop.page.locator(".chart").all()
    assert len(charts) > 3
    for chart in charts:
        picture = chart.locator("svg.marks")
        assert picture.get_attribute("role") == "img"
        assert picture.get_attribute("aria-label") == chart.get_attribute("aria-label")
        assert picture.locator("path, text").count() > 5
        box = picture.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 60


def test_charts_follow_the_colors_of_the_system(browser: Any, report: Path) -> None:
    opened = open_file(browser, report)
    visit(opened)
    text = opened.page.locator(".chart").first.locator("svg.marks text").first
    before = text.get_attribute("fill")
    opened.page.emulate_media(color_scheme="dark")
    expect(text).not_to_have_attribute("fill", before)
    assert opened.complaints == []
    opened.page.close()


def test_the_slider_of_the_circuit_moves_by_keyboard(desktop: Opened) -> None:
    slider, status = desktop.page.get_by_role("slider", name="Size").first, desktop.page.locator(".ck-status")

    def counted() -> int:
        return int(status.inner_text().split(" of ")[0].replace(",", ""))

    slider.press("Home")
    assert counted() == 0
    assert slider.get_attribute("aria-valuetext") == "0 edges"
    slider.press("End")
    largest = counted()
    slider.press("PageDown")
    assert 0 < counted() < largest
    assert slider.get_attribute("aria-valuetext") == f"{counted():,} edges"


def test_the_leaderboard_sorts_by_click_and_by_keyboard(desktop: Opened) -> None:
    by_rank = order(desktop)
    assert len(by_rank) > 2
    method = header(desktop, "Method")
    method.get_by_role("button").click()
    assert method.get_attribute("aria-sort") == "ascending"
    assert header(desktop, "Rank").get_attribute("aria-sort") == "none"
    ascending = order(desktop)
    assert ascending == sorted(by_rank, key=str.lower)
    method.get_by_role("button").press("Enter")
    assert method.get_attribute("aria-sort") == "descending"
    assert order(desktop) == ascending[::-1]
    header(desktop, "Rank").get_by_role("button").press("Space")
    assert order(desktop) == by_rank


def test_numbers_sort_as_numbers(desktop: Opened) -> None:
    time = header(desktop, "Time")
    time.get_by_role("button").click()
    seconds = desktop.page.locator("#leaderboard-table tbody td[data-sort]").evaluate_all(
        "cells => cells.map((cell) => Number(cell.dataset.sort))"
    )
    assert seconds == sorted(seconds)
    header(desktop, "Rank").get_by_role("button").click()


def test_the_leaderboard_filters(desktop: Opened) -> None:
    everything = order(desktop)
    form = desktop.page.locator("form.tools")
    form.get_by_role("searchbox").fill("ACDC")
    found = order(desktop)
    assert 0 < len(found) < len(everything)
    assert all("acdc" in name for name in found)
    assert form.locator("output").inner_text() == f"{len(found)} of {len(everything)} rows"
    form.get_by_role("searchbox").fill("")
    assert order(desktop) == everything


def test_no_text_of_others_does_anything(hostile: Opened) -> None:
    page = hostile.page
    for name in ("Circuit", "Compare with"):
        page.locator("#circuit-viewer").get_by_label(name, exact=True).select_option(index=1)
    page.locator("#prompt-view select[name=circuit]").select_option(index=1)
    header(hostile, "Method").get_by_role("button").click()
    tooltips = []
    for mark in page.locator(".chart .mark-symbol path:first-child, .chart .mark-rect path:first-child").all():
        mark.hover(force=True)
        tooltips.append(page.locator("#vg-tooltip-element").inner_text())
    assert sum("window.hacked=1" in text for text in tooltips) > 2
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed, base, a[href^=javascript], a[href^=http]").count() == 0
    assert hostile.complaints == []
    assert hostile.requests == []


def test_texts_of_others_are_shown_as_they_are(hostile: Opened) -> None:
    shown = " ".join(hostile.page.evaluate("document.body.textContent").split())
    for text in HOSTILE[:-1]:
        assert shown.count(" ".join(text.split())) >= 2, text
    assert "window.hacked=1" in hostile.page.title()
    assert HOSTILE[2] in order(hostile)[0]


def test_texts_of_others_do_not_widen_the_page(hostile: Opened) -> None:
    for width in (1280, 390):
        hostile.page.set_viewport_size({"width": width, "height": 900})
        assert hostile.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_large_leaderboard_has_its_own_height(browser: Any, compared: Path, tmp_path: Path) -> None:
    folder = make_large(compared, tmp_path / "large", groups=(3, 4))
    opened = open_file(browser, write_report(folder)[0])
    page = opened.page
    box = page.get_by_role("region", name="Leaderboard, scrolls")
    heights = [box.bounding_box()["height"]]
    page.get_by_role("link", name="Curves").click()
    assert 0 <= page.locator("h2#curves").bounding_box()["y"] < 400
    box.scroll_into_view_if_needed()
    heights.append(box.bounding_box()["height"])
    assert heights[0] == heights[1] <= 900  # known before the rows are laid out, so that nothing moves
    assert len(order(opened)) > 100
    box.evaluate("box => box.scrollTo(0, 3000)")
    assert box.locator("thead").bounding_box()["y"] >= box.bounding_box()["y"]  # the heads of the columns stay
    page.locator("form.tools select[name=task]").select_option("task_2")
    assert 0 < len(order(opened)) == page.locator("#leaderboard-table tr[data-task=task_2]").count()
    page.get_by_text("6 more", exact=True).click()
    assert page.get_by_role("heading", name="task_3 in model_2").is_visible()
    assert serious_findings(page) == []
    assert opened.complaints == []
    page.close()
