"""Units of precision."""

import pytest
from support.tiny import tiny

from circuitkit.precision.units import Unit, unit_after, unit_of, writers_of


@pytest.mark.parametrize("variant", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("mlps", [True, False])
def test_units_share_out_the_writers_and_follow_each_other_as_a_search_does(variant: str, mlps: bool) -> None:
    graph = tiny(variant).graph
    searched = dict.fromkeys(unit_of(graph, reader) for reader in reversed(range(graph.n_readers)))
    units = [unit for unit in searched if unit is not None and (mlps or unit.kind == "attention")]
    for unit, following in zip(units, [*units[1:], None], strict=True):
        assert unit_after(graph, unit, mlps) == following
    covered = [writer for unit in units for writer in range(graph.n_writers)[writers_of(graph, unit)]]
    inputs_and_mlps = [*range(graph.inputs), *([] if mlps else [graph.mlp(layer) for layer in range(graph.layers)])]
    assert sorted(covered + inputs_and_mlps) == list(range(graph.n_writers))


def test_an_mlp_is_one_writer() -> None:
    graph = tiny("llama").graph
    assert writers_of(graph, Unit("mlp", 1)) == slice(graph.mlp(1), graph.mlp(1) + 1)
