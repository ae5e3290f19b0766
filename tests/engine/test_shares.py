"""How processes share prompts, without communication: what each would have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import random_batch, tiny

from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.processes import ALONE, Processes

MODEL = tiny("gpt2")


class One(Processes):
    """One of several processes that have all the same memory."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


def rows(batch):
    return sorted(map(tuple, batch.clean.tolist()))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    count=st.integers(1, 4),
    budget=st.integers(1, 9),
)
def test_processes_share_every_batch(sizes, count, budget):
    """Each prompt is in one process; all have as many batches; none has more prompts than its memory holds."""
    batches = [random_batch(seed, lengths=(5,) * size) for seed, size in enumerate(sizes)]
    shares = [
        prepare_batches(
            MODEL,
            batches,
            LogitDifference(),
            Resample(),
            memory_budget=100 * budget,
            need=Need(working={"all": 100}),
            processes=One(rank, count),
        )
        for rank in range(count)
    ]
    assert len({len(prepared) for prepared in shares}) == 1
    counted = []
    for together in zip(*shares, strict=True):
        assert sum(prepared.share for prepared in together) == pytest.approx(1)
        for prepared in together:
            assert 1 <= len(prepared.batch) <= budget
            counted += rows(prepared.batch) if prepared.share else []
    assert sorted(counted) == sorted(row for batch in batches for row in rows(batch))
    totals = [sum(len(prepared.batch) for prepared in share if prepared.share) for share in shares]
    assert max(totals) - min(totals) <= 1


def test_one_process_changes_nothing():
    batch, x = random_batch(), torch.arange(3, dtype=torch.float64)
    assert ALONE.own(batch) is batch
    assert ALONE.sum(x) is x
    assert ALONE.broadcast(x) is x
    assert ALONE.smallest(5) == 5
    assert ALONE.agree(5)
