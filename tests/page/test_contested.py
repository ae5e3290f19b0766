"""The contested edges on the page of a run of `stable`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.page_reader import read_page

from circuitkit.page.content import Content
from circuitkit.page.contested import MOST, list_contested
from circuitkit.page.page import write_report
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies import ACDC, Stable


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stable") / "run"
    strategy = Stable(ACDC([0.05, 0.2], screen=0.5), samples=5, vary=["prompts", "order"])
    Discoverer("cpu", callbacks=[]).run("toy", "ioi", strategy, examples=6, sizes=(), out=out)
    return out


def change(stable: Path, folder: Path, **metrics: Any) -> Path:
    """Copy the run with other metrics; None takes one away."""
    shutil.copytree(stable, folder)
    file = folder / "result.json"
    found = json.loads(file.read_text())
    found["metrics"] |= metrics
    found["metrics"] = {name: value for name, value in found["metrics"].items() if value is not None}
    file.write_text(json.dumps(found))
    return folder


def rows(*kept: int, varied: tuple[str, ...] = ("prompts", "order")) -> list[dict[str, Any]]:
    return [
        {"circuit": number, "varied": name, "kept": one, "removed": 1, "contested": 2, "jaccard": 0.5}
        for number, one in enumerate(kept, 1)
        for name in varied
    ]


def test_every_circuit_has_a_table_of_its_contested_edges(stable: Path) -> None:
    metrics = Result.load(stable).metrics
    found = list_contested(Content.load(stable))
    assert [one.name.split(", ")[1] for one in found] == ["threshold 0.05", "threshold 0.2"]
    for number, one in enumerate(found):
        votes = metrics["contested_edges"][number]
        assert {edge.edge: edge.votes for edge in one.edges} == {name: list(of.values()) for name, of in votes.items()}
        assert (one.samples, one.needed, one.left) == (5, 5, 0)
        assert [row["contested"] for row in one.counts] == [
            row["contested"] for row in metrics["stability"] if row["circuit"] == number + 1
        ]
    assert found[0].edges
    write_report(stable)
    page = read_page(stable)
    assert ("a", {"href": "#contested"}) in page.elements
    assert all(edge.edge in page.text for edge in found[0].edges)


def test_edges_are_contested_by_what_leaves_them_in_doubt(stable: Path, tmp_path: Path) -> None:
    votes = [(4, 0), (5, 0), (3, 2), (1, 5), (0, 5)]
    edges = {f"edge {number}": {"prompts": one, "order": other} for number, (one, other) in enumerate(votes)}
    folder = change(stable, tmp_path / "run", contested_edges=[edges, {}], stability=rows(3, 4))
    first, second = list_contested(Content.load(folder))
    assert [(edge.edge, edge.votes, edge.by) for edge in first.edges] == [
        ("edge 2", [3, 2], "prompts and order"),
        ("edge 0", [4, 0], "prompts"),
        ("edge 3", [1, 5], "prompts"),
        ("edge 1", [5, 0], "kept over prompts, removed over order"),
        ("edge 4", [0, 5], "removed over prompts, kept over order"),
    ]
    assert [edge.confidence for edge in first.edges] == pytest.approx([0.5, 26 / 32, 26 / 32, 31 / 32, 31 / 32])
    assert not second.edges
    write_report(folder)
    assert "No edge is contested." in read_page(folder).text


def test_of_many_edges_the_least_certain_are_listed(stable: Path, tmp_path: Path) -> None:
    edges = {f"edge {number}": {"prompts": 3 + number % 2, "order": 5} for number in range(2 * MOST + 10)}
    folder = change(stable, tmp_path / "run", contested_edges=[edges, {}], stability=rows(3, 4))
    first, _ = list_contested(Content.load(folder))
    assert (len(first.edges), first.left) == (MOST, MOST + 10)
    assert {edge.votes[0] for edge in first.edges} == {3}
    write_report(folder)
    assert f"{MOST} contested edges, and {MOST + 10} more in the run's result.json" in read_page(folder).text


def test_names_are_text_on_the_page(stable: Path, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    edges = {attack: {attack: 3}}
    stability = rows(3, 4, varied=(attack,))
    folder = change(stable, tmp_path / "run", contested_edges=[edges, {}], stability=stability)
    before, _ = write_report(stable, tmp_path / "before"), write_report(folder)
    page = read_page(folder)
    assert page.tags.count("script") == read_page(before[0].parent).tags.count("script")
    assert page.text.count(attack) >= 4


@pytest.mark.parametrize(
    "metrics",
    [
        {"contested_edges": None},
        {"stability": "high"},
        {"samples": "many"},
        {"samples": 10**18, "contested_edges": [{"a": {"prompts": 10**17, "order": 1}}, {}]},
        {"contested_edges": [{}]},
        {"contested_edges": [{"a": {"prompts": 6, "order": 1}}, {}]},
        {"contested_edges": [{"a": {"prompts": 1}}, {}]},
        {"contested_edges": [{"a": [1, 2]}, {}]},
        {"stability": rows(1)},
        {"stability": rows(1, 1, 1)},
    ],
    ids=str,
)
def test_metrics_of_another_form_are_not_shown(metrics: dict[str, Any], stable: Path, tmp_path: Path) -> None:
    folder = change(stable, tmp_path / "run", **metrics)
    assert not list_contested(Content.load(folder))


def test_other_strategies_have_none(compared: Path) -> None:
    assert not list_contested(Content.load(compared))
