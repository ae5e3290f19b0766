"""Units of precision: the smallest parts of a model that can be in full precision while the rest is not.

A unit is a key-value group of a layer: its query heads' `q` and `o`, and the group's own `k` and `v`. The heads of a
group share keys and values, which cannot have two precisions at once without being computed twice. Without
grouped-query attention a unit is one head. An MLP is a unit too.
"""

from typing import Literal, NamedTuple

from circuitkit.circuit.graph import EdgeGraph


class Unit(NamedTuple):
    """A key-value group (`kind="attention"`), or an MLP, whose `group` is 0."""

    kind: Literal["attention", "mlp"]
    layer: int
    group: int = 0


def unit_of(graph: EdgeGraph, reader: int) -> Unit | None:
    """Return the unit that a reader feeds; None for the logits."""
    kind, layer, head = graph.reader(reader)
    if kind == "logits":
        return None
    if kind == "mlp":
        return Unit("mlp", layer)
    readers = graph.heads if kind == "q" else graph.kv_readers
    return Unit("attention", layer, head * graph.kv_heads // readers)


def writers_of(graph: EdgeGraph, unit: Unit) -> slice:
    """Return the numbers of a unit's writers."""
    if unit.kind == "mlp":
        return slice(graph.mlp(unit.layer), graph.mlp(unit.layer) + 1)
    share = graph.heads // graph.kv_heads
    return slice(graph.head(unit.layer, unit.group * share), graph.head(unit.layer, (unit.group + 1) * share))


def unit_after(graph: EdgeGraph, unit: Unit, mlps: bool) -> Unit | None:
    """Return the next unit in a search from the logits backwards; `mlps`: whether MLPs are units."""
    if unit.kind == "mlp":
        return Unit("attention", unit.layer, graph.kv_heads - 1)
    if unit.group > 0:
        return Unit("attention", unit.layer, unit.group - 1)
    if unit.layer == 0:
        return None
    return Unit("mlp", unit.layer - 1) if mlps else Unit("attention", unit.layer - 1, graph.kv_heads - 1)
