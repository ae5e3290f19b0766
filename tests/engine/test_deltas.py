"""Sums over kept edges, by lists of rows and by matrix products, against plain additions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitkit.engine.editors.deltas import DeltaTable, DifferentiableDeltas, KeptEdges


class LastIsAnswer:
    """Positions of which the last is the answer; the two sets are only names here."""

    changed, answers = "changed", "answers"
    both = (changed, answers)

    @staticmethod
    def narrow(x):
        return x[..., -1:, :]


def plain_sums(kept, deltas):
    found = []
    for edges in kept.tolist():
        total = torch.zeros_like(deltas[0])
        for keep, delta in zip(edges, deltas, strict=True):
            if keep:
                total = total + delta
        found.append(total)
    return torch.stack(found)


@given(st.data())
def test_both_kinds_agree(data):
    seed, hypotheses, batch, positions, width = (data.draw(st.integers(1, top)) for top in (999, 4, 3, 4, 5))
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    groups = data.draw(
        st.lists(st.tuples(st.integers(1, 3), st.sampled_from(LastIsAnswer.both)), min_size=1, max_size=5)
    )
    room = {"changed": sum(n for n, at in groups if at == "changed"), "answers": sum(n for n, _ in groups)}
    table, pieces = DeltaTable(LastIsAnswer(), room), DifferentiableDeltas(LastIsAnswer())
    filled = {"changed": 0, "answers": 0}
    plain: dict[str, list[torch.Tensor]] = {"changed": [], "answers": []}
    for n, at in groups:
        count = positions if at == "changed" else 1
        outputs, before = noise(n, hypotheses, batch, count, width), noise(n, batch, count, width)
        delta = table.add(outputs, before, at)
        assert torch.equal(delta, outputs - before.unsqueeze(1))
        assert torch.equal(pieces.add(outputs, before, at), delta)
        plain["answers"] += delta[..., -1:, :]
        plain["changed"] += delta if at == "changed" else ()
        filled["answers"] += n
        filled["changed"] += n * (at == "changed")
        for where, seen in filled.items():
            if seen:
                density = data.draw(st.sampled_from((0.1, 0.4, 1.0)))
                kept = torch.rand(data.draw(st.integers(1, 4)), seen, generator=generator) < density
                edges = KeptEdges(kept)
                assert edges.count == kept.sum()
                expected = plain_sums(kept, plain[where])
                assert torch.allclose(table.sums(edges, where), expected, rtol=0, atol=1e-12)
                assert torch.allclose(pieces.sums(edges, where), expected, rtol=0, atol=1e-12)
                assert torch.equal(table.sums(edges, where), table.sums(edges, where))  # cached indices are right


def test_the_open_readers_delta_is_taken_as_it_is():
    delta = torch.ones(1, 2, 1, 1, 3)
    table, pieces = DeltaTable(LastIsAnswer(), {"changed": 0, "answers": 1}), DifferentiableDeltas(LastIsAnswer())
    edges = KeptEdges(torch.tensor([[True], [False]]))
    for deltas in (table, pieces):
        assert torch.equal(deltas.add(delta, None, "answers"), delta)
        assert torch.equal(deltas.sums(edges, "answers"), torch.cat([delta, torch.zeros_like(delta)]))


def test_dense_edges_have_no_lists_of_rows():
    vectors, width = 6, 4
    sparse, dense = KeptEdges(torch.eye(8, dtype=torch.bool)), KeptEdges(torch.ones(8, 8, dtype=torch.bool))
    assert (sparse.dense, dense.dense) == (False, True)
    rows, begins = sparse.bags(vectors)
    assert sparse.index_bytes(vectors) == rows.nbytes + begins.nbytes
    assert dense.index_bytes(vectors) == 0
    table = DeltaTable(LastIsAnswer(), {"changed": 0, "answers": 8})
    deltas = table.add(torch.randn(8, vectors, 1, 1, width, dtype=torch.float64), None, "answers")
    assert torch.equal(table.sums(sparse, "answers"), deltas)
