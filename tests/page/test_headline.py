"""The sentence on top claims no more than the intervals support."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.entries import entry, size

from circuitkit.evaluation.intervals import PerPrompt, difference_figure
from circuitkit.page.content import Content, PageCell
from circuitkit.page.headline import headline
from circuitkit.page.leaderboard import Entry, leaderboard, rank_entries
from circuitkit.report.comparison_tables import CONTROL

HOLDS = (0.95, 0.9, 1.0)


def without_results(kind: str = "comparison", cells: tuple[PageCell, ...] = ()) -> Any:
    """Content whose results are not loaded, so that methods are compared by their intervals alone."""
    return SimpleNamespace(kind=kind, results={}, cells=cells)


def say(*entries: Entry) -> str:
    return headline(without_results(), entries).sentence


def test_a_method_alone_is_named_with_the_difference_to_the_next() -> None:
    said = say(
        entry("a", sizes=(size(100, *HOLDS),)),
        entry("b", sizes=(size(100, 0.5, 0.4, 0.6), size(900, *HOLDS))),
        entry(CONTROL, sizes=(size(100, 0.02, 0.0, 0.04),)),
    )
    assert said == (
        "On ioi in toy, a finds the smallest circuit that holds on held-out prompts: 0.95 [0.90, 1.00] with its top "
        "100 edges; b at that size 0.50 [0.40, 0.60] (difference 0.45 [0.30, 0.60]); random edges 0.02."
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ((0.93, 0.85, 1.01), "b holds at that size too"),
        ((0.85, 0.75, 0.95), "the prompts do not tell whether b would"),
        ((0.7, None, None), "the prompts do not tell whether b would"),
    ],
)
def test_methods_that_are_not_told_apart_are_named_together(other: tuple[float | None, ...], words: str) -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(100, *other),)))
    assert "a finds a circuit as small as any that holds" in said
    assert words in said
    assert "smallest" not in said


def test_an_overshooting_rival_does_not_hold() -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(100, 3.0, 2.5, 3.5), size(500, *HOLDS))))
    assert "a finds the smallest circuit" in said
    assert "the next, b, takes 500 edges" in said


def test_edges_that_the_method_chose_are_called_so() -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS, ranking="own"),)), entry("b", sizes=(size(500, *HOLDS),)))
    assert "with the edges it chose, 100" in said


def test_nothing_holds() -> None:
    said = say(entry("a", sizes=(size(100, 0.7, 0.6, 0.8),)), entry("b", sizes=(size(50, 0.2, 0.1, 0.3),)))
    assert "no measured circuit holds" in said
    assert "the nearest is a, 0.70 [0.60, 0.80] with its top 100 edges" in said


def test_several_settings_have_a_sentence_each_and_one_for_all() -> None:
    a, b = entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(500, *HOLDS),))
    other = [replace(one, task="other") for one in (a, replace(b, sizes=a.sizes))]
    found = headline(without_results(), [a, b, *other])
    assert found.sentence == (
        "Of 2 settings (model, task and objective): a alone finds the smallest circuit that holds on held-out prompts "
        "in 1; in 1 several methods find one that small, or are not told apart."
    )
    assert [finding.where for finding in found.evidence] == ["ioi in toy", "other in toy"]


def test_cells_without_a_result_are_counted() -> None:
    labels = {"model": "toy", "task": "ioi", "objective": "logit_difference"}
    cells = tuple(PageCell(labels, "", state, "", "") for state in ("finished", "unfinished", "failed"))
    entries = [entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(500, *HOLDS),))]
    said = headline(without_results(cells=(*cells, PageCell({}, "", "failed", "", ""))), entries).sentence
    assert said.endswith("Of its 3 cells, 2 have no result.")


def test_purposes_name_the_cheapest_method_whose_circuit_holds() -> None:
    quick = replace(entry("quick", (0.5, 0.4, 0.6), (size(100, 0.3, 0.2, 0.4),)), wall_s=0.1)
    good = replace(entry("good", (0.1, 0.05, 0.15), (size(100, *HOLDS),)), wall_s=9.0)
    slow = replace(entry("slow", (0.12, 0.07, 0.17), (size(100, *HOLDS),)), wall_s=99.0, peak_mb=0.5)
    (finding,) = headline(without_results(), rank_entries([quick, good, slow])).evidence
    assert [purpose.method for purpose in finding.purposes] == ["good, or slow", "good and slow", "good", "slow"]
    assert "do not tell 2 methods apart" in finding.purposes[1].evidence


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "has no cells"),
        (["failed", "failed"], "All 2 cells failed"),
        (["unfinished", "failed"], "No cell is finished yet: 1 of 2 are to be run, and 1 failed"),
    ],
)
def test_without_figures_it_says_why(states: list[Any], words: str) -> None:
    cells = tuple(PageCell({}, "", state, "", "") for state in states)
    assert words in headline(without_results(cells=cells), []).sentence


def test_one_seed_is_compared_prompt_by_prompt(compared: Path) -> None:
    content = Content.load(compared)
    frame = content.frame[content.frame["seed"] == 0]
    entries = leaderboard(frame)
    said = headline(content, entries).sentence
    acdc = [one for one in entries if one.strategy == "acdc" and one.smallest]
    best = min(acdc, key=lambda one: (one.smallest.edges_asked, abs(1 - one.smallest.test.value)))
    chosen = best.smallest
    shown = re.search(r"eap at that size .* \(difference (\S+) \[(\S+), (\S+)\]\)", said)
    assert shown, said
    points = {}
    for folder, result in content.results.items():
        selections = [circuit.selection for circuit in result.circuits]
        number = selections.index(best.operating_point) if best.operating_point in selections else 0
        evaluation = result.evaluations["test"][number]
        strategy = content.cell_of(folder).labels["strategy"]
        curve = evaluation.curve("own" if strategy == "acdc" and chosen.ranking == "own" else "absolute")
        point = next(one for one in curve if one.edges_asked >= chosen.edges_asked)
        points[strategy] = PerPrompt(*(evaluation.per_prompt(which) for which in (point, "full", "ablated")))
    wanted = difference_figure(points["acdc"], points["eap"])
    assert [f"{value:.2f}" for value in wanted] == list(shown.groups())
