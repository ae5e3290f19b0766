"""Where nodes and edges are drawn."""

import pytest
from hypothesis import given
from support.graphs import GROUPED, graphs

from circuitkit.circuit.drawing.layout import HALF_HEIGHT, node_positions, route_edge
from circuitkit.circuit.graph import EdgeGraph


@given(graphs())
def test_nodes_have_places_of_their_own_and_layers_are_rows(graph: EdgeGraph) -> None:
    layout = node_positions(graph)
    assert (len(layout.writers), len(layout.readers)) == (graph.n_writers, graph.n_readers)
    ports = [place for index, place in enumerate(layout.readers) if graph.reader(index).kind in ("k", "v", "logits")]
    places = [*layout.writers, *ports]
    assert len(set(places)) == len(places)
    assert layout.writers[0].y == 0
    for layer in range(graph.layers):
        row = [layout.writers[writer].y for writer in range(graph.head(layer, 0), graph.head(layer + 1, 0))]
        assert all(layer + 1 <= y < layer + 2 for y in row)
    assert layout.top == layout.readers[graph.logits].y == graph.layers + 1


@given(graphs())
def test_every_edge_leads_upwards_and_ends_at_its_reader(graph: EdgeGraph) -> None:
    layout = node_positions(graph)
    for edge in range(len(graph)):
        writer, reader = int(graph.writer_of[edge]), int(graph.reader_of[edge])
        start, first, second, end = route_edge(graph, layout, writer, reader)
        assert start.y < end.y
        assert start.y <= first.y <= second.y <= end.y
        assert start.y == layout.writers[writer].y + HALF_HEIGHT
        if writer:
            assert start.x == layout.writers[writer].x
        if reader != graph.logits:
            assert end.x == layout.readers[reader].x
            assert 0 < layout.readers[reader].y - end.y < HALF_HEIGHT + 1e-9
        for end_of_bar, on_a_bar in ((start, writer == 0), (end, reader == graph.logits)):
            assert not on_a_bar or layout.left - 0.05 <= end_of_bar.x <= layout.right


def test_a_key_or_value_of_a_group_is_below_the_middle_of_its_heads() -> None:
    layout = node_positions(GROUPED)  # 4 heads in 2 groups
    key, value = (layout.readers[GROUPED.reader_index(kind, 1, 1)] for kind in ("k", "v"))
    assert (key.x + value.x) / 2 == pytest.approx(2.5)
    assert key.x < value.x
    assert key.y == value.y < layout.writers[GROUPED.head(1, 2)].y


def test_an_mlp_is_above_the_heads_that_it_reads() -> None:
    for parallel in (False, True):
        graph = EdgeGraph(2, 3, 3, parallel=parallel)
        writers = node_positions(graph).writers
        assert (writers[graph.mlp(0)].y > writers[graph.head(0, 0)].y) is not parallel
        assert writers[graph.mlp(0)].x > max(writers[writer].x for writer in range(1, 4))


def test_a_layer_may_be_lower() -> None:
    writers = node_positions(GROUPED, [0.5, 1.0]).writers
    assert writers[GROUPED.head(1, 0)].y == writers[GROUPED.head(0, 0)].y + 0.5


def test_arcs_between_mlps_are_the_wider_the_more_layers_they_skip() -> None:
    graph = EdgeGraph(6, 2, 2)
    layout = node_positions(graph)
    widths = [
        route_edge(graph, layout, graph.mlp(0), graph.reader_index("mlp", layer)).first.x for layer in range(1, 6)
    ]
    assert widths == sorted(set(widths))
    assert layout.right < widths[-1] <= layout.edge_of_arcs
