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


def test_a_larger_l0_weight_keeps_fewer_nodes(toy):
    strategy = SubnetworkProbing(l0_weight=[0.3, 3.0], trainer={"max_steps": 60})
    result = circuitkit.discover(toy, "ioi", strategy, examples=16)
    large, small = result.circuits
    assert 0 < len(small) < len(large) < len(toy.graph)
    for circuit in result.circuits:
        assert torch.equal(circuit.prune().kept, circuit.kept)
        assert ((circuit.scores >= 0) & (circuit.scores <= 1)).all()
        assert (circuit.scores[circuit.kept] > 0.5).all()
    assert result.evaluations["test"][0].curve("own")[0].faithfulness > 0.7


def test_the_score_of_an_edge_is_the_smaller_of_its_two_gates(toy):
    """Attention readers and outputs of MLPs have gates; an edge from an MLP to the logits has only the MLP's."""
    circuit = circuitkit.discover(toy, "ioi", SubnetworkProbing(trainer={"max_steps": 20}), examples=8).circuit
    graph, scores = toy.graph, dict(zip(toy.graph.names, circuit.scores.tolist(), strict=True))
    gates = {name: scores[f"{name}->logits"] for name in graph.writer_names if name[0] == "m"}
    for reader in graph.reader_names[: graph.logits]:
        if reader[0] == "a":
            gates[reader] = scores[f"input->{reader}"]
    assert len(gates) == graph.n_readers - 1
    assert len(set(gates.values())) > len(gates) / 2
    for name, score in scores.items():
        writer, reader = name.split("->")
        of_reader = gates[reader] if reader[0] == "a" else 1.0
        assert score == min(gates.get(writer, 1.0), of_reader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l0_weight": []}, "l0_weight is empty"),
        ({"l0_weight": -1.0}, "l0_weight=-1.0 is out of range. Give a number of at least 0"),
        ({"l0_weight": [1.0, "high"]}, "l0_weight='high' is not a finite number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"trainer": {"max_step": 3}}, "'max_step'.*'max_steps'"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        SubnetworkProbing(**arguments)
