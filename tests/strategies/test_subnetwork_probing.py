"""Subnetwork probing on the toy model."""

import pytest
import torch

import circuitkit
from circuitkit import CircuitModel
from circuitkit.errors import UsageError
from circuitkit.strategies.subnetwork_probing import SubnetworkProbing


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def test_a_higher_price_keeps_fewer_nodes(toy):
    strategy = SubnetworkProbing(strengths=[0.3, 3.0], trainer={"max_steps": 60})
    result = circuitkit.discover(toy, "ioi", strategy, examples=16)
    cheap, dear = result.circuits
    assert 0 < len(dear) < len(cheap) < len(toy.graph)
    for circuit in result.circuits:
        assert torch.equal(circuit.prune().kept, circuit.kept)
        assert ((circuit.scores >= 0) & (circuit.scores <= 1)).all()
        assert (circuit.scores[circuit.kept] > 0.5).all()
    assert result.evaluations[0].curve("own")[0].faithfulness > 0.7


def test_an_edge_follows_its_nodes(toy):
    circuit = circuitkit.discover(toy, "ioi", SubnetworkProbing(trainer={"max_steps": 20}), examples=8).circuit
    graph = toy.graph
    of_writer = graph.writer_of == graph.mlp(0)
    for reader in range(graph.n_readers):
        edges = graph.edges(reader)
        others = circuit.scores[edges][~of_writer[edges]]
        kinds = {graph.writer_names[writer][0] for writer in range(graph.prefix(reader))}
        if "m" not in kinds and graph.reader(reader).kind in ("q", "k", "v"):
            assert len(others.unique()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.0, "strengths": [1.0]}, "Both"),
        ({"strengths": []}, "empty"),
        ({"strength": -1.0}, "-1.0 is not a number from 0 on"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"trainer": {"max_step": 3}}, "'max_step'.*'max_steps'"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        SubnetworkProbing(**arguments)
