"""Bisection over sizes and operating points, on goals whose answer is known."""

import math

import pytest

from circuitkit.run.bisection import CLOSE, MOST_SEARCHES, RESOLUTION, bisect_places, find_size


@pytest.mark.parametrize("edges", [1, 2, 30, 262, 50_000])
def test_the_size_is_the_first_that_reaches_the_goal_to_two_percent(edges: int) -> None:
    for first in {1, 2, 3, 17, 49, 50, 51, 99, 100, edges - 1, edges, 12_345} & set(range(1, edges + 1)):
        tried: list[int] = []

        def reaches(size: int, first: int = first, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size >= first

        size = find_size(edges, reaches)
        assert size is not None
        assert first <= size <= max(first, first * (1 + 1.1 * RESOLUTION))
        assert size == first or first > 50  # exact where 2% is less than an edge
        assert len(set(tried)) == len(tried) < 45
        assert size in tried
        assert max(tried) <= edges


def test_no_size_reaches_the_goal() -> None:
    tried: list[int] = []
    assert find_size(100, lambda size: tried.append(size) is not None) is None
    assert tried == sorted(tried)
    assert (tried[0], tried[-1]) == (1, 100)


def test_a_dip_between_the_sizes_does_not_end_above_one_that_reaches_the_goal() -> None:
    size = find_size(200, lambda size: size == 6 or size >= 90)
    assert size == 6


class Places:
    """Circuits whose size falls with the place: `edges / (1 + place)`; the goal is reached up to the place `most`."""

    def __init__(self, most: float, edges: int = 10**6) -> None:
        self.most, self.edges, self.tried = most, edges, list[float]()

    def find(self, place: float) -> tuple[bool, int]:
        self.tried.append(place)
        return place <= self.most, int(self.edges / (1 + place))

    def best(self) -> float:
        return max(place for place in self.tried if place <= self.most)


@pytest.mark.parametrize("most", [0.02, 0.3, 0.999, 1.0, 1.7, 3.99, 30.0])
def test_operating_points_are_bisected_until_they_are_close(most: float) -> None:
    places = Places(most)
    bisect_places(1.0, places.edges, places.find)
    assert len(places.tried) <= MOST_SEARCHES
    steps = math.floor(abs(math.log(most, 4))) + 2 + 4  # a factor of 4 is below 1.1 after four halvings
    assert len(places.tried) <= steps
    if steps <= MOST_SEARCHES:
        assert most / CLOSE < places.best() <= most


def test_neighbours_that_differ_by_one_edge_end_the_search() -> None:
    places = Places(1.5, edges=4)
    bisect_places(1.0, 4, places.find)
    assert places.tried == [1.0, 4.0, 2.0]  # 2 edges reach it, 1 does not


@pytest.mark.parametrize("most", [0.0, math.inf])
def test_the_search_ends_at_the_densest_and_at_the_sparsest_circuit(most: float) -> None:
    places = Places(most, edges=10)
    bisect_places(1.0, 10, lambda place: (places.find(place)[0], 10 if place < 0.1 else 0 if place > 10 else 5))
    assert len(places.tried) == 3


def test_a_goal_far_away_takes_all_searches_and_no_more() -> None:
    places = Places(1e9)
    bisect_places(1.0, places.edges, places.find)
    assert len(places.tried) == MOST_SEARCHES
