"""Hard-concrete gates against sampling and against their definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.strategies.gate_training.hard_concrete import Gates, hard_concrete, noise, open_probability, start_at
from circuitkit.strategies.subnetwork_probing import node_gates

SAMPLES = 40_000


@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_probabilities_are_those_of_samples(log_alpha):
    z = hard_concrete(torch.full((SAMPLES,), log_alpha), noise(0, 0, SAMPLES))
    assert ((z >= 0) & (z <= 1)).all()
    tolerance = 4 * 0.5 / math.sqrt(SAMPLES)
    assert float((z > 0).float().mean()) == pytest.approx(
        float(open_probability(torch.tensor(log_alpha))), abs=tolerance
    )
    assert float((z > 0.5).float().mean()) == pytest.approx(1 / (1 + math.exp(-log_alpha)), abs=tolerance)
    assert float((z < 1).float().mean()) == pytest.approx(
        float(open_probability(torch.tensor(-log_alpha))), abs=tolerance
    )


def test_the_mean_crosses_one_half_at_zero():
    for log_alpha, above in ((-0.2, False), (0.2, True)):
        z = hard_concrete(torch.full((SAMPLES,), log_alpha), noise(1, 0, SAMPLES))
        assert (float(z.mean()) > 0.5) == above


@given(st.floats(0.01, 0.99))
def test_a_start_is_open_with_its_probability(probability):
    assert float(open_probability(torch.tensor(start_at(probability)))) == pytest.approx(probability, abs=1e-5)


@given(st.floats(-3, 3), st.floats(0.05, 0.95))
def test_a_gate_is_what_the_formula_says(log_alpha, u):
    s = 1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + log_alpha) * 1.5))
    z = hard_concrete(torch.tensor(log_alpha), torch.tensor(u))
    assert float(z) == pytest.approx(min(max(s * 1.2 - 0.1, 0), 1), abs=1e-5)


def test_noise_is_a_function_of_seed_and_step():
    assert torch.equal(noise(3, 7, 50), noise(3, 7, 50))
    others = [noise(3, 8, 50), noise(4, 7, 50), noise(7, 3, 50)]
    assert all(abs(float(torch.corrcoef(torch.stack([noise(3, 7, 50), other]))[0, 1])) < 0.5 for other in others)
    many = noise(0, 0, 10**6)
    assert float(many.min()) > 9e-7
    assert float(many.max()) < 1
    before = torch.random.get_rng_state()
    noise(0, 1, 10)
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_an_edge_has_the_product_of_its_gates(seed):
    generator = torch.Generator().manual_seed(seed)
    of_edges = torch.randint(-1, 5, (2, 9), generator=generator)
    gates = Gates(5, of_edges, 0.0)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.randn(5, generator=generator))
    u = torch.rand(5, generator=generator)
    z, p = hard_concrete(gates.log_alpha, u).tolist(), open_probability(gates.log_alpha).tolist()
    halves = torch.sigmoid(gates.log_alpha.double()).tolist()
    mask, scores, expected = gates.sample(u).tolist(), gates.scores().tolist(), 0.0
    for edge, (one, other) in enumerate(of_edges.T.tolist()):
        assert mask[edge] == pytest.approx([*z, 1.0][one] * [*z, 1.0][other], abs=1e-6)
        assert scores[edge] == pytest.approx(min([*halves, 1.0][one], [*halves, 1.0][other]))
        expected += [*p, 1.0][one] * [*p, 1.0][other]
    assert gates.expected_edges().item() == pytest.approx(expected, abs=1e-4)
    assert list(gates.state_dict()) == ["log_alpha"]


@pytest.mark.parametrize("mlps", [True, False])
def test_the_gates_of_nodes(mlps):
    graph = EdgeGraph(layers=2, heads=4, kv_heads=2, mlps=mlps)
    of_reader, of_writer = node_gates(graph)
    number = 0
    for reader in range(graph.n_readers):
        kind, _, _ = graph.reader(reader)
        gate = -1
        if kind in ("q", "k", "v"):
            gate, number = number, number + 1
        assert (of_reader[graph.edges(reader)] == gate).all()
    for edge, name in enumerate(graph.names):
        writer = name.split("->")[0]
        assert int(of_writer[edge]) == (number + int(writer[1:]) if writer[0] == "m" else -1)
