"""The prompts of a page in Chromium: what the script builds is what the template writes, and filters filter."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.browser import open_file

import circuitkit
from circuitkit import Circuit, DiscoveryStrategy
from circuitkit.page.page import write_report
from circuitkit.strategies.discovery import Discovery

EVIL = " <img src=x onerror=alert(1)>\"'&amp;{{ 7*7 }}\0\u202e👩🏽‍🔬 "


class Two(DiscoveryStrategy):
    """A circuit without most edges, which fails, and a large one."""

    def discover(self, run: Discovery) -> list[Circuit]:
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(len(run.model.graph), generator=generator, dtype=torch.float64)
        ranking = Circuit.from_scores(run.model.graph, scores)
        return [ranking.top(60).prune(), ranking.top(len(scores) - 5)]


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("run") / "run"
    result = circuitkit.discover("toy", "ioi", Two(), examples=16)
    first, *others = result.answers.prompts
    evil = replace(first, clean=(EVIL, *first.clean[1:]), answers=((*first.answers[0], *(str(n) for n in range(9))),))
    replace(result, answers=replace(result.answers, prompts=(evil, *others))).save(folder)
    write_report(folder)
    opened = open_file(browser, folder / "report.html")
    opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    opened.page.wait_for_selector("#prompt-view .tools:not([hidden])")
    yield opened.page
    opened.page.close()
    assert opened.complaints == []


def read(page: Any, part: str) -> list[str]:
    return page.eval_on_selector_all(f"#prompt-view {part}", "elements => elements.map((one) => one.outerHTML.trim())")


def shown(page: Any) -> int:
    return page.eval_on_selector_all("#prompt-view .prompts tbody tr", "rows => rows.filter((r) => !r.hidden).length")


def test_the_script_builds_what_the_template_writes(page: Any) -> None:
    parts = ("h3", ".says p", ".templates tbody tr", ".prompts tbody tr")
    written = [read(page, part) for part in parts]
    assert all(written)
    circuits = page.locator("#prompt-view select[name=circuit]")
    circuits.select_option("1")
    assert [read(page, part) for part in parts] != written
    circuits.select_option("0")
    assert [read(page, part) for part in parts] == written


def test_filters_choose_prompts(page: Any) -> None:
    view = page.locator("#prompt-view")
    failures = int(view.locator("tr.failure").count())
    assert 0 < failures < 16
    box = view.locator("input[type=checkbox]")
    box.check()
    assert shown(page) == failures
    assert view.locator("output").inner_text() == f"{failures} of 16 prompts"
    box.uncheck()
    view.locator("input[type=search]").fill("prompt 7, template")
    assert shown(page) == 1
    none = view.locator(".none")
    assert not none.is_visible()
    view.locator("input[type=search]").fill("nothing has these words")
    assert (shown(page), none.is_visible()) == (0, True)
    view.locator("input[type=search]").fill("")
    assert not none.is_visible()
    template = view.locator("select[name=template]")
    label = template.locator("option").nth(1).inner_text()
    template.select_option(label)
    assert 0 < shown(page) < 16
    template.select_option("")
    assert shown(page) == 16


def test_evil_text_is_shown_as_text(page: Any) -> None:
    assert page.locator("#prompt-view img").count() == 0
    shown_text = page.locator("#prompt-view .prompts").inner_text()
    assert "<img src=x onerror=alert(1)>\"'&amp;{{ 7*7 }}\\x00\\u202e👩🏽\\u200d🔬" in shown_text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_not_wider_than_its_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector("#prompt-view", "view => view.scrollWidth") <= width
