"""Ranks that intervals support, and the smallest circuit that holds."""

import itertools
from pathlib import Path

import pytest
from support.entries import Triple, entry, size

from circuitkit.comparison.rows import to_frame
from circuitkit.page.content import Content, to_records
from circuitkit.page.flags import flag_size
from circuitkit.page.leaderboard import Size, describe_criterion, leaderboard, rank_entries
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.report.over_seeds import average_over_seeds

HALF = (0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("figures", "ranks"),
    [
        ([(0.1, 0.05, 0.15), (0.3, 0.25, 0.35)], ["1", "2"]),
        ([(0.1, 0.05, 0.15), (0.2, 0.14, 0.35)], ["=1", "=1"]),
        ([(0.1, 0.05, 0.15), (0.2, 0.14, 0.35), (0.3, 0.2, 0.4)], ["=1", "=1", "2"]),
        ([(0.1, 0.05, 0.15), (0.1, None, None)], ["=1", "=1"]),
        ([(0.1, 0.1, 0.1), (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)], ["=1", "=1", "3"]),
    ],
)
def test_methods_whose_intervals_overlap_share_a_rank(figures: list[Triple], ranks: list[str]) -> None:
    entries = [entry(name, figure) for name, figure in zip("abc", figures, strict=False)]
    for order in itertools.permutations(entries):
        found = {one.method: f"{'=' * one.tied}{one.rank}" for one in rank_entries(order)}
        assert [found[one.method] for one in entries] == ranks


def test_the_random_control_has_no_rank_and_comes_last() -> None:
    found = rank_entries([entry(CONTROL, (0.01, 0.0, 0.02)), entry("a", (0.5, 0.4, 0.6))])
    assert [(one.method, one.rank) for one in found] == [("a", 1), (CONTROL, None)]


def test_without_areas_methods_are_ranked_at_a_size_that_all_have() -> None:
    far, over, near = size(20, 0.5, 0.4, 0.6), size(20, 1.6, 1.5, 1.7), size(20, 1.02, 0.98, 1.06)
    entries = [entry(name, sizes=(one,)) for name, one in (("far", far), ("over", over), ("near", near))]
    found = {one.method: one.rank for one in rank_entries(entries)}
    assert found == {"near": 1, "far": 2, "over": 2}  # both are 0.4 or more from 1
    assert describe_criterion(entries) == "held-out faithfulness at 2% of the edges"


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ((0.9, 0.85, 0.95), True),
        ((0.9, 0.79, 1.0), False),
        ((0.9, None, None), False),
        ((1.3, 1.25, 1.4), False),
        ((None, None, None), False),
    ],
)
def test_a_circuit_holds_if_its_interval_says_so(test: Triple, holds: bool) -> None:
    assert size(20, *test).holds is holds
    assert size(1000, *test).holds is False  # the full model


def test_the_smallest_circuit_that_holds() -> None:
    sizes = (size(10, 0.5, 0.4, 0.6), size(50, 0.9, 0.85, 0.95), size(100, 0.95, 0.9, 1.0))
    assert entry("a", sizes=sizes).smallest is sizes[1]


@pytest.mark.parametrize(("edges", "wanted"), [(45, 50), (70, 100), (51, 50), (111, None), (109, 100), (33, None)])
def test_a_circuit_of_about_a_size_is_rather_larger_than_smaller(edges: float, wanted: float | None) -> None:
    found = entry("a", sizes=tuple(size(one, *HALF) for one in (10, 50, 100, 1000))).near(edges)
    assert (found and found.edges) == wanted


def test_a_larger_circuit_that_holds_does_not_speak_for_smaller_ones() -> None:
    sizes = (size(95, *HALF), size(140, 0.95, 0.9, 1.0))
    assert entry("a", sizes=sizes).near(100) is sizes[0]
    assert entry("a", sizes=sizes).near(130) is sizes[1]
    assert entry("a", sizes=sizes).near(110) is None


def test_sizes_are_edges_left_not_edges_asked() -> None:
    few, many = size(40, 0.95, 0.9, 1.0, asked=60), size(50, 0.95, 0.9, 1.0, asked=55)
    assert entry("a", sizes=(many, few)).smallest is few


@pytest.mark.parametrize(
    ("of_seeds", "holds"),
    [((0.9, 1.0, 1.1), True), ((1.0, 1.0, 0.5), False), ((1.25, 1.0, 0.8), False), ((1.0, 1.0, None), False)],
)
def test_a_circuit_holds_on_every_seed(of_seeds: tuple[float | None, ...], holds: bool) -> None:
    assert size(20, 0.83, 0.82, 0.85, of_seeds=of_seeds).holds is holds


def test_random_edges_are_counted_as_drawn() -> None:
    control = entry(CONTROL, sizes=(size(1, 0.0, 0.0, 0.0, asked=50), size(30, 0.9, 0.8, 1.0, asked=130)))
    assert control.drawn(50) is control.sizes[0]
    assert control.drawn(51) is control.sizes[1]
    assert control.drawn(131) is None


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (size(20, 0.5, 0.45, 0.55, train=(0.7, 0.65, 0.75)), ["gap"]),
        (size(20, 0.5, 0.45, 0.55, train=(0.6, 0.54, 0.66)), []),
        (size(20, 5.0, 4.0, 6.0), ["overshoots"]),
        (size(20, 0.3, 0.15, 0.4), ["chance?"]),
        (size(15, 0.3, 0.15, 0.4), ["chance?"]),
        (size(21, 0.3, 0.15, 0.4), []),
        (size(20, 0.5, 0.45, 0.55, of_seeds=(0.5, None)), ["undefined"]),
    ],
)
def test_marks_say_where_a_number_misleads(found: Size, names: list[str]) -> None:
    control = entry(CONTROL, sizes=(size(20, 0.2, 0.1, 0.3),))
    assert [flag.name for flag in flag_size(found, control)] == names


def test_the_figures_are_those_of_the_rows(compared: Path) -> None:
    frame = Content.load(compared).frame
    entries = leaderboard(frame)
    assert len(entries) == 4
    for one in entries:
        rows = [
            row
            for row in to_records(frame)
            if (row["strategy"], row["operating_point"]) == (one.strategy, one.operating_point)
        ]
        absolute = [row for row in rows if row["ranking"] == "absolute"]
        assert one.cmd == average_over_seeds(absolute, "cmd")
        assert one.seeds == 2
        for measured in one.sizes:
            same = [row for row in rows if row["ranking"] == measured.ranking]
            if measured.ranking == "absolute":
                same = [row for row in same if row["fraction"] == measured.fraction]
            assert measured.test == average_over_seeds(same, "faithfulness_test")
            assert measured.of_seeds == tuple(row["faithfulness_test"] for row in same)
            assert measured.train == average_over_seeds(same, "faithfulness_train")


def test_an_empty_table_has_no_lines() -> None:
    assert leaderboard(to_frame([])) == []
