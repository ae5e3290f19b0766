"""The viewer in a browser."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from support.browser import Opened, open_file, serious_findings
from support.graphs import GROUPED, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing.layout import node_positions, route_edge
from circuitkit.circuit.drawing.viewer import viewer_data, viewer_html
from circuitkit.circuit.graph import EdgeGraph

LARGE = EdgeGraph(9, 8, 8)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>[red]=1+1"
SIZES = [
    {"edges": 10, "faithfulness": {"value": 0.25, "low": 0.2, "high": 0.3}, "split": "test"},
    {"edges": 40, "faithfulness": {"value": 0.75, "low": None, "high": None}, "split": "test"},
]


def show(browser: Any, folder: Path, *circuits: dict[str, Any], width: int = 1280, dark: bool = False) -> Opened:
    path = folder / "viewer.html"
    path.write_text(viewer_html(circuits, "Test"), encoding="utf-8")
    return open_file(browser, path, width, dark)


def ranking(seed: int = 0, graph: EdgeGraph = GROUPED) -> Circuit:
    random = torch.Generator().manual_seed(seed)
    return Circuit.from_scores(graph, torch.randn(len(graph), generator=random, dtype=torch.float64))


def status(opened: Opened) -> str:
    text: str = opened.page.locator(".ck-status").inner_text()
    return text


def drawn(opened: Opened, picture: int = 0) -> int:
    count: int = opened.page.evaluate(f"viewer.drawings[{picture}].cy.edges('.shown').length")
    return count


def set_size(opened: Opened, size: int) -> None:
    opened.page.get_by_role("spinbutton", name="Number of edges").fill(str(size))
    opened.page.get_by_role("spinbutton", name="Number of edges").press("Enter")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_serious_is_wrong_with_the_page(browser: Any, tmp_path: Path, width: int, dark: bool) -> None:
    data = [viewer_data(ranking(), "one", SIZES), viewer_data(random_circuit(GROUPED), "two")]
    opened = show(browser, tmp_path, *data, width=width, dark=dark)
    opened.page.locator("select").nth(1).select_option(label="two")
    assert serious_findings(opened.page) == []
    assert opened.complaints == []
    assert opened.requests == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    opened.page.close()


def test_paths_lead_through_coupled_heads(browser: Any, tmp_path: Path) -> None:
    graph = replace(GROUPED, coupled=True)
    opened = show(browser, tmp_path, viewer_data(ranking(graph=graph), "one"))
    for size in (15, 25, 40):
        set_size(opened, size)
        coupled, alone = (len(ranking(graph=one).top(size).prune()) for one in (graph, GROUPED))
        assert drawn(opened) == coupled > alone
    opened.page.close()


def test_the_slider_changes_the_edges_and_the_counts(browser: Any, tmp_path: Path) -> None:
    circuit = ranking()
    opened = show(browser, tmp_path, viewer_data(circuit, "one", SIZES))
    slider = opened.page.get_by_role("slider", name="Size")
    before = drawn(opened)
    slider.focus()
    for _ in range(40):
        slider.press("ArrowRight")
    size = int(opened.page.get_by_role("spinbutton", name="Number of edges").input_value())
    assert size > before
    pruned = len(circuit.top(size).prune())
    assert drawn(opened) == pruned
    text = f"{size} of {len(GROUPED)} edges chosen, the best by |score|; {pruned} on a path from input to logits"
    assert text in status(opened)
    opened.page.get_by_label("Only edges on a path").uncheck()
    assert drawn(opened) == size
    opened.page.close()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (10, "Faithfulness of this size: 0.25 [0.2, 0.3] on test."),
        (40, "Faithfulness of this size: 0.75 on test."),
        (20, "Not measured at this size. Faithfulness at 10 edges 0.25 [0.2, 0.3] on test; at 40 edges 0.75 on test."),
        (50, "Not measured at this size. Faithfulness at 40 edges 0.75 on test."),
    ],
)
def test_faithfulness_is_that_of_measured_sizes_only(browser: Any, tmp_path: Path, size: int, text: str) -> None:
    opened = show(browser, tmp_path, viewer_data(ranking(), "one", SIZES))
    set_size(opened, size)
    assert opened.page.locator(".ck-faithfulness").first.inner_text() == text
    opened.page.close()


def test_edges_can_be_hidden_by_kind_and_by_score(browser: Any, tmp_path: Path) -> None:
    circuit = ranking()
    opened = show(browser, tmp_path, viewer_data(circuit))
    set_size(opened, len(GROUPED))
    table = circuit.to_pandas()
    assert drawn(opened) == len(table)
    opened.page.get_by_label("value", exact=True).uncheck()
    table = table[table["kind"] != "v"]
    assert drawn(opened) == len(table)
    opened.page.get_by_label("Hide |score| below").fill("0.5")
    opened.page.get_by_label("Hide |score| below").press("Enter")
    table = table[table["score"].abs() >= 0.5]
    assert drawn(opened) == len(table)
    assert f"{len(GROUPED) - len(table)} hidden by kind or score" in status(opened)
    opened.page.close()


def test_two_circuits_are_compared(browser: Any, tmp_path: Path) -> None:
    one, two = random_circuit(GROUPED, 1), random_circuit(GROUPED, 2)
    opened = show(browser, tmp_path, viewer_data(one, "one"), viewer_data(two, "two"))
    opened.page.get_by_label("Compare with").select_option(label="two")
    a, b = one.prune(), two.prune()
    counts = [len(a & b), len(a - b), len(b - a)]
    assert f"Shared: {counts[0]}; only in one: {counts[1]}; only in two: {counts[2]}." in status(opened)
    by_class = [f"viewer.drawings[0].cy.edges('.{name}').length" for name in ("both", "first", "second")]
    assert [opened.page.evaluate(script) for script in by_class] == counts
    opened.page.get_by_label("Show both").select_option(label="side by side")
    assert [drawn(opened, 0), drawn(opened, 1)] == [len(a), len(b)]
    assert opened.page.locator(".ck-canvas:visible").count() == 2
    opened.page.close()


def test_circuits_of_different_graphs_are_not_compared(browser: Any, tmp_path: Path) -> None:
    other = random_circuit(EdgeGraph(3, 2, 2))
    opened = show(browser, tmp_path, viewer_data(ranking(), "one"), viewer_data(other, "two"))
    opened.page.get_by_label("Compare with").select_option(label="two")
    assert "different models, so they are not compared" in status(opened)
    opened.page.get_by_label("Circuit", exact=True).select_option(label="two")
    assert drawn(opened) == len(other.prune())
    opened.page.close()


def test_a_node_is_found_and_its_neighbours_stand_out(browser: Any, tmp_path: Path) -> None:
    names = ["input->m0", "m0->a1.kv1<k>", "a1.h3->logits", "input->a0.h0<q>", "a0.h0->logits"]
    opened = show(browser, tmp_path, viewer_data(Circuit.from_names(GROUPED, names)))
    opened.page.get_by_label("Find").fill("a1.h3")
    opened.page.get_by_label("Find").press("Enter")
    about = opened.page.locator(".ck-about").inner_text()
    assert about == "a1.h3, layer 1. 1 edge in: m0 1. 1 edge out: logits 1."
    clear = (
        "viewer.drawings[0].cy.edges('.shown').not('.faint').map((edge) => viewer.first.edgeName(edge.data('edge')))"
    )
    assert sorted(opened.page.evaluate(clear)) == ["a1.h3->logits", "m0->a1.kv1<k>"]
    opened.page.get_by_label("Follow whole paths").check()
    assert sorted(opened.page.evaluate(clear)) == ["a1.h3->logits", "input->m0", "m0->a1.kv1<k>"]
    opened.page.get_by_role("button", name="Show all").click()
    assert len(opened.page.evaluate(clear)) == 5
    opened.page.get_by_label("Find").fill("<b>nobody</b>")
    opened.page.get_by_label("Find").press("Enter")
    assert opened.page.locator(".ck-about").inner_text() == "Nothing here is called <b>nobody</b>."
    opened.page.close()


def test_the_keyboard_goes_from_node_to_node(browser: Any, tmp_path: Path) -> None:
    names = ["input->a0.h1<q>", "a0.h1->m0", "m0->logits"]
    opened = show(browser, tmp_path, viewer_data(Circuit.from_names(GROUPED, names)))
    canvas = opened.page.locator(".ck-canvas").first
    canvas.focus()
    seen = []
    for key in ("ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        canvas.press(key)
        seen.append(opened.page.locator(".ck-about").inner_text().split(",")[0].split(".")[0:2])
    assert [name[0] for name in seen] == ["input", "a0", "m0", "logits"]
    canvas.press("Escape")
    assert opened.page.locator(".ck-about").inner_text() == ""
    opened.page.close()


def test_an_edge_says_its_score_and_how_it_came_about(browser: Any, tmp_path: Path) -> None:
    circuit = random_circuit(GROUPED)
    opened = show(browser, tmp_path, viewer_data(circuit))
    first = opened.page.locator(".ck-strongest tbody button").first
    name = first.inner_text()
    first.click()
    about = opened.page.locator(".ck-about").inner_text()
    row = circuit.to_pandas().set_index("edge").loc[name]
    assert about.startswith(
        f"{name} ({ {'q': 'query', 'k': 'key', 'v': 'value', 'mlp': 'MLP'}.get(row.kind, row.kind) })"
    )
    assert f"score {row.score:.3g}".replace("-", "−") in about
    assert f"rank {row['rank']} of {len(GROUPED)}" in about
    opened.page.close()


def test_heads_share_the_key_or_value_of_their_group(browser: Any, tmp_path: Path) -> None:
    circuit = Circuit.from_names(GROUPED, ["input->m0", "m0->a1.kv0<v>", "a1.h0->logits", "a1.h1->logits"])
    opened = show(browser, tmp_path, viewer_data(circuit))
    table = opened.page.locator("table", has_text="sum of |score|")
    rows = [row.split("\t") for row in table.inner_text().splitlines()]
    share = f"{1 + 1 / (GROUPED.heads // GROUPED.kv_heads):.3g}"
    assert {(row[0], row[1]) for row in rows if len(row) == 2} >= {("m0", "2"), ("a1.h0", share), ("a1.h1", share)}
    opened.page.close()


def test_texts_of_others_are_text(browser: Any, tmp_path: Path) -> None:
    circuit = Circuit.from_names(GROUPED, ["input->logits"])
    hostile = Circuit(GROUPED, circuit.scores, circuit.kept, circuit.score_sources, HOSTILE)
    opened = show(browser, tmp_path, viewer_data(hostile, HOSTILE), viewer_data(ranking(), HOSTILE + "2"))
    opened.page.get_by_label("Compare with").select_option(index=2)
    assert HOSTILE in status(opened)
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img").count() == 0
    assert opened.complaints == []
    opened.page.close()


def test_no_more_edges_are_drawn_than_can_be_read(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, viewer_data(ranking(0, LARGE), most=5_000))
    set_size(opened, 5_000)
    assert drawn(opened) == 3000
    assert "The 3,000 strongest are drawn." in status(opened)
    assert "This page knows the best 5,000." in status(opened)
    assert opened.page.locator(".ck-canvas").first.is_visible()
    opened.page.close()


def test_an_empty_circuit_is_shown_as_one(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, viewer_data(ranking().top(0)))
    assert status(opened).startswith(f"0 of {len(GROUPED)} edges chosen (top 0 by |score|)")
    assert drawn(opened) == 0
    assert opened.complaints == []
    opened.page.close()


def test_no_circuit_is_said(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "none.html"
    path.write_text(viewer_html([]), encoding="utf-8")
    opened = open_file(browser, path)
    assert opened.page.locator("#circuit").inner_text() == "There is no circuit to show."
    opened.page.close()


def test_edges_run_as_in_the_static_picture(browser: Any, tmp_path: Path) -> None:
    shapes = [GROUPED, EdgeGraph(4, 3, 3, parallel=True), EdgeGraph(3, 2, 2, mlps=False)]
    opened = show(browser, tmp_path, viewer_data(ranking()))
    script = """(all) => all.map((data) => {
      const model = new circuitkitViewer.Model(data);
      return Array.from(model.writer, (writer, edge) => circuitkitViewer.route(model, writer, model.reader[edge]));
    })"""
    found = opened.page.evaluate(script, [viewer_data(ranking(0, graph)) for graph in shapes])
    for graph, routes in zip(shapes, found, strict=True):
        layout = node_positions(graph)
        for edge, points in zip(ranking(0, graph).ranking().tolist(), routes, strict=True):
            route = route_edge(graph, layout, int(graph.writer_of[edge]), int(graph.reader_of[edge]))
            assert list(chain(*points)) == pytest.approx(list(chain(*route)), abs=2e-3), graph.names[edge]
    opened.page.close()


def test_paths_are_those_of_prune(browser: Any, tmp_path: Path) -> None:
    shapes = [GROUPED, EdgeGraph(3, 3, 3, parallel=True), EdgeGraph(3, 2, 1, mlps=False), EdgeGraph(2, 4, 2, kv="head")]
    circuits = [random_circuit(graph, seed, seed / 20) for graph in shapes for seed in range(1, 11)]
    opened = show(browser, tmp_path, viewer_data(circuits[0]))
    script = "(all) => all.map((data) => Array.from(new circuitkitViewer.Model(data).onPath(data.edges.kept)))"
    found = opened.page.evaluate(script, [viewer_data(circuit) for circuit in circuits])
    for circuit, on_path in zip(circuits, found, strict=True):
        assert on_path == circuit.prune().kept[circuit.ranking()[: len(circuit)]].int().tolist()
    assert {0, 1} == set(chain(*found))
    opened.page.close()
