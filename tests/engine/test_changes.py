"""Sums over kept edges alone, against a matrix product with zeros."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitkit.engine.changes import DifferentiableChanges, Reads, TableOfChanges


class Last:
    """Positions of which the answers are the last."""

    @staticmethod
    def answers_of(x):
        return x[..., -1:, :]


@given(st.data())
def test_both_kinds_agree(data):
    seed, hypotheses, batch, positions, width = (data.draw(st.integers(1, top)) for top in (999, 4, 3, 4, 5))
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    groups = data.draw(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=5))
    room = {True: sum(n for n, everywhere in groups if everywhere), False: sum(n for n, _ in groups)}
    table, pieces = TableOfChanges(Last(), room), DifferentiableChanges(Last())
    filled = {True: 0, False: 0}
    for n, everywhere in groups:
        at = positions if everywhere else 1
        outputs, written = noise(n, hypotheses, batch, at, width), noise(n, batch, at, width)
        change = table.add(outputs, written, everywhere)
        assert torch.equal(change, outputs - written.unsqueeze(1))
        assert torch.equal(pieces.add(outputs, written, everywhere), change)
        filled[False] += n
        filled[True] += n * everywhere
        for where, seen in filled.items():
            if seen:
                kept = torch.rand(data.draw(st.integers(1, 4)), seen, generator=generator) < 0.4
                reads = Reads(kept)
                assert reads.edges == kept.sum()
                expected = pieces.summed(reads, where)
                assert torch.allclose(table.summed(reads, where), expected, rtol=0, atol=1e-12)
                assert torch.equal(table.summed(reads, where), table.summed(reads, where))  # what it remembers is right


def test_the_open_readers_change_is_taken_as_it_is():
    change = torch.ones(1, 2, 1, 1, 3)
    table, pieces = TableOfChanges(Last(), {True: 0, False: 1}), DifferentiableChanges(Last())
    reads = Reads(torch.tensor([[True], [False]]))
    for changes in (table, pieces):
        assert torch.equal(changes.add(change, None, everywhere=False), change)
        assert torch.equal(changes.summed(reads, everywhere=False), torch.cat([change, torch.zeros_like(change)]))
