"""A circuit as DOT text, for Graphviz."""

import pydot

from circuitkit.circuit.drawing.layout import node_positions
from circuitkit.circuit.drawing.picture import NEGATIVE, POSITIVE
from circuitkit.circuit.drawing.subject import Subject
from circuitkit.circuit.score_source import ScoreSource

_STYLES = {"k": "dashed", "v": "dotted"}
_COLUMN, _ROW = 72, 54  # in points


def render_dot(circuit: Subject) -> str:
    """Write all kept edges, whatever their number; `neato -n` keeps the positions of the nodes.

    Every node has a `pos`, every edge its `score`, `score_source` and `kind` (`q`, `k`, `v`, `mlp` or `logits`). A key
    or value is a node of its own, with an edge to each head that it feeds.
    """
    graph, layout = circuit.graph, node_positions(circuit.graph)
    result = pydot.Dot("circuit", graph_type="digraph", rankdir="BT", splines="true")
    nodes: dict[str, pydot.Node] = {}
    fed: dict[tuple[str, str], pydot.Edge] = {}
    edges = []

    def add_node(name: str, x: float, y: float) -> str:
        position = _quote(f"{x * _COLUMN:.1f},{y * _ROW:.1f}!")
        nodes.setdefault(name, pydot.Node(_quote(name), pos=position, shape="box"))
        return name

    for edge in circuit.kept.nonzero()[:, 0].tolist():
        writer, reader = int(graph.writer_of[edge]), int(graph.reader_of[edge])
        kind = graph.reader(reader).kind
        source = add_node(graph.writer_names[writer], *layout.writers[writer])
        writers = [(graph.writer_names[index], layout.writers[index]) for index in graph.writers_fed_by(reader)]
        if kind in ("q", "mlp"):
            target = add_node(writers[0][0], *writers[0][1])
        else:
            target = add_node(graph.reader_names[reader], *layout.readers[reader])
            for name, point in writers:
                add_node(name, *point)
                fed[target, name] = pydot.Edge(_quote(target), _quote(name), color="gray", arrowhead="none")
        score = float(circuit.scores[edge])
        edges.append(
            pydot.Edge(
                _quote(source), _quote(target), color=_quote(NEGATIVE if score < 0 else POSITIVE), kind=kind,
                style=_STYLES.get(kind, "solid"), score=_quote(repr(score)),
                score_source=ScoreSource(int(circuit.score_sources[edge])).name.lower(),
            )
        )  # fmt: skip
    for node in nodes.values():
        result.add_node(node)
    for line in [*fed.values(), *edges]:
        result.add_edge(line)
    text: str = result.to_string()
    return text


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
