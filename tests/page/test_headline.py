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
from circuitkit.page.leaderboard import NEAR, Entry, leaderboard, rank_entries
from circuitkit.report.comparison_tables import CONTROL

HOLDS = (0.95, 0.9, 1.0)


def without_results(kind: str = "comparison", cells: tuple[PageCell, ...] = (), **environment: Any) -> Any:
    """Content whose results are not loaded, so that methods are compared by their intervals alone."""
    return SimpleNamespace(kind=kind, results={}, cells=cells, environment=environment)


def say(*entries: Entry) -> str:
    return headline(without_results(), entries).sentence


def test_a_method_alone_is_named_with_the_difference_to_the_next() -> None:
    said = say(
        entry("a", sizes=(size(100, *HOLDS),)),
        entry("b", sizes=(size(100, 0.5, 0.4, 0.6), size(900, *HOLDS))),
        entry(CONTROL, sizes=(size(100, 0.02, 0.0, 0.04),)),
    )
    assert said == (
        "On ioi in toy, a finds the smallest measured circuit that holds on held-out prompts: 0.95 [0.90, 1.00] with "
        "100 edges; b has 0.50 [0.40, 0.60] with 100 edges (difference 0.45 [0.30, 0.60]); 100 random edges 0.02."
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ((0.93, 0.85, 1.01), "b holds with 100 edges too"),
        ((0.85, 0.75, 0.95), "the prompts do not tell whether b would"),
        ((0.7, None, None), "the prompts do not tell whether b would"),
    ],
)
def test_methods_that_are_not_told_apart_are_named_together(other: tuple[float | None, ...], words: str) -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(100, *other),)))
    assert "a finds a circuit as small as any measured that holds" in said
    assert words in said
    assert "smallest" not in said


def test_a_rival_that_was_not_measured_near_the_size_is_named() -> None:
    b = entry("b", sizes=(size(30, 0.1, 0.05, 0.15), size(500, *HOLDS)))
    said = say(entry("a", sizes=(size(59, *HOLDS),)), b)
    assert "a finds the smallest measured circuit" in said
    assert "; the next, b, takes 500 edges; b, not measured near 59 edges, may have one as small" in said
    near = replace(b, sizes=(size(55, 0.1, 0.05, 0.15), size(500, *HOLDS)))
    said = say(entry("a", sizes=(size(59, *HOLDS),)), near)
    assert "; b has 0.10 [0.05, 0.15] with 55 edges" in said
    assert "not measured near" not in said
    larger = replace(b, sizes=(size(80, *HOLDS),))
    said = say(entry("a", sizes=(size(59, *HOLDS),)), larger)
    assert "a finds the smallest measured circuit" in said
    assert "; the next, b, takes 80 edges; b, not measured near 59 edges, may have one as small" in said


def test_several_seeds_have_their_spread_and_all_must_hold() -> None:
    a = replace(entry("a", sizes=(size(100, *HOLDS, of_seeds=(0.9, 0.95, 1.0)),)), seeds=3)
    b = replace(entry("b", sizes=(size(95, 0.83, 0.82, 0.85, of_seeds=(1.0, 1.0, 0.5)),)), seeds=3)
    said = say(a, b)
    assert "a finds the smallest measured circuit that holds on held-out prompts: 0.95 [0.90, 1.00] ±0.05 with" in said
    assert "b has 0.83 [0.82, 0.85] ±0.29 with 95 edges" in said


def test_operating_points_are_named_where_a_method_has_several() -> None:
    low, high = (
        replace(entry("acdc", sizes=sizes), operating_point=f"threshold {threshold}, signed")
        for threshold, sizes in (("0.03", (size(100, *HOLDS),)), ("0.3", (size(20, 0.5, 0.4, 0.6),)))
    )
    eap = entry("eap", sizes=(size(500, *HOLDS),))
    (finding,) = headline(without_results(), [low, high, eap]).evidence
    assert "acdc (threshold 0.03) finds the smallest" in finding.sentence
    assert finding.purposes[0].method == "acdc (threshold 0.03)"
    precise = [replace(one, method="acdc (int8)") for one in (low, high)]
    assert "acdc (int8, threshold 0.03) finds" in say(*precise, eap)


def test_what_misleads_in_the_best_circuit_is_said() -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS, train=(1.13, 1.1, 1.16)),)), entry("b", sizes=(size(500, *HOLDS),)))
    assert "with 100 edges; found-on 1.13: a gap of 0.18, part of it fits those prompts alone; the next" in said


def test_random_edges_are_of_the_next_measured_number() -> None:
    control = entry(CONTROL, sizes=(size(1, 0.02, 0.0, 0.04, asked=900),))
    a, b = entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(500, *HOLDS),))
    assert say(a, b, control).endswith("; 900 random edges 0.02.")


def test_an_overshooting_rival_does_not_hold() -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(100, 3.0, 2.5, 3.5), size(500, *HOLDS))))
    assert "a finds the smallest measured circuit" in said
    assert "the next, b, takes 500 edges" in said


def test_edges_that_the_method_chose_are_called_so() -> None:
    said = say(entry("a", sizes=(size(100, *HOLDS, ranking="own"),)), entry("b", sizes=(size(500, *HOLDS),)))
    assert "with the 100 edges it chose" in said


def test_nothing_holds() -> None:
    said = say(entry("a", sizes=(size(100, 0.7, 0.6, 0.8),)), entry("b", sizes=(size(50, 0.2, 0.1, 0.3),)))
    assert "no measured circuit holds" in said
    assert "the nearest is a, 0.70 [0.60, 0.80] with 100 edges" in said


def test_several_settings_have_a_sentence_each_and_one_for_all() -> None:
    a, b = entry("a", sizes=(size(100, *HOLDS),)), entry("b", sizes=(size(500, *HOLDS),))
    other = [replace(one, task="other") for one in (a, replace(b, sizes=a.sizes))]
    found = headline(without_results(), [a, b, *other])
    assert found.sentence == (
        "Of 2 settings (model, task and objective), the smallest measured circuit that holds on held-out prompts, or "
        "one not told apart from it, is of a in 2 (alone in 1) and b in 1."
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
    assert "do not tell these 2 apart" in finding.purposes[1].evidence


def test_one_method_on_several_settings_is_not_called_the_best() -> None:
    a = entry("a", sizes=(size(100, *HOLDS),))
    other = replace(a, task="other", sizes=(size(100, 0.5, 0.4, 0.6),))
    assert headline(without_results(), [a, other]).sentence == (
        "a has a measured circuit that holds on held-out prompts in 1 of 2 settings (model, task and objective)."
    )


def test_costs_within_a_tenth_are_named_together_and_times_of_cells_at_once_are_not_compared() -> None:
    sizes = (size(100, *HOLDS),)
    entries = [
        replace(entry(name, sizes=sizes), wall_s=seconds) for name, seconds in (("a", 2.1), ("b", 2.0), ("c", 2.3))
    ]
    (finding,) = headline(without_results(workers=1), entries).evidence
    time, memory = finding.purposes[-2:]
    assert (time.method, memory.method) == ("b and a", "a, b and c")
    assert time.evidence == "2.00 s; 0.95 [0.90, 1.00] with 100 edges; the others within 10% of it"
    (finding,) = headline(without_results(workers=3), entries).evidence
    time, memory = finding.purposes[-2:]
    assert (time.method, memory.method) == ("Not compared", "a, b and c")
    assert "3 cells ran at once" in time.evidence


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(CONTROL, sizes=(size(100, 0.02, 0.0, 0.04),))], "only random edges were measured"),
        ([entry(name, sizes=(size(100, None, None, None),)) for name in "ab"], "faithfulness is undefined"),
        ([entry("a", sizes=(size(100, None, None, None, ranking="own"),))], "faithfulness is undefined"),
    ],
)
def test_without_faithfulness_it_says_why(entries: list[Entry], words: str) -> None:
    said = say(*entries)
    assert words in said
    assert "no measured circuit holds" not in said


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
    best = min(acdc, key=lambda one: (one.smallest.edges, abs(1 - one.smallest.test.value)))
    chosen = best.smallest
    shown = re.search(r"eap has .* edges \(difference (\S+) \[(\S+), (\S+)\]\)", said)
    assert shown, said
    points = {}
    for folder, result in content.results.items():
        selections = [circuit.selection for circuit in result.circuits]
        number = selections.index(best.operating_point) if best.operating_point in selections else 0
        evaluation = result.evaluations["test"][number]
        strategy = content.cell_of(folder).labels["strategy"]
        if strategy == CONTROL:
            continue
        curve = evaluation.curve("own" if strategy == "acdc" and chosen.ranking == "own" else "absolute")
        near = [one for one in curve if chosen.edges / NEAR <= one.edges <= chosen.edges * 1.5]
        point = min(near, key=lambda one: (one.edges < chosen.edges, abs(one.edges - chosen.edges)))
        points[strategy] = PerPrompt(*(evaluation.per_prompt(which) for which in (point, "full", "ablated")))
    wanted = difference_figure(points["acdc"], points["eap"])
    assert [f"{value:.2f}" for value in wanted] == list(shown.groups())
