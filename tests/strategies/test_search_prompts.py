"""Searches whose layers have prompts of their own: which prompts, the same effects as masked runs, and resumed runs."""

import weakref

import pytest
import torch
from support.tiny import random_batch, tiny

from circuitkit import Discoverer
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.run.callbacks import Callback
from circuitkit.strategies.acdc import ACDC
from circuitkit.strategies.search_prompts import SearchPrompts

pytestmark = pytest.mark.filterwarnings("ignore:The model gives the answer")


class StoppedError(Exception):
    """Ends a run."""


class Watch(Callback):
    """Gives the `Discovery` of a run to `see`."""

    def __init__(self, see):
        self.see = see

    def on_discovery_start(self, run):
        self.see(run)


def discovery(model, task):
    found = []

    def see(run):
        found.append(run)
        raise StoppedError

    with pytest.raises(StoppedError):
        Discoverer("cpu", callbacks=[Watch(see)]).run(model, task, "acdc", examples=len(task), sizes=())
    return found[0]


@pytest.mark.parametrize(
    ("prompts", "per_layer", "expected"),
    [
        (6, 2, [[0, 1], [2, 3], [4, 5]]),
        (9, 2, [[0, 1], [2, 3], [4, 5]]),
        (4, 3, [[0, 1, 2], [3, 0, 1], [2, 3, 0]]),
        (2, 3, [[0, 1], [0, 1], [0, 1]]),
    ],
)
def test_layers_have_other_prompts_until_there_are_none_left(prompts, per_layer, expected):
    task = random_batch(lengths=(6,) * prompts)
    run = discovery(tiny("llama"), task)
    if prompts < per_layer:
        with pytest.warns(UserWarning, match="prompts_per_layer=3, but there are 2 prompts"):
            made = SearchPrompts(run, per_layer=per_layer)
    else:
        made = SearchPrompts(run, per_layer=per_layer)
    for layer, numbers in zip((2, 1, 0), expected, strict=True):
        (prepared,) = made.editor(layer).prepared_batches
        assert torch.equal(prepared.batch.clean, task.clean[numbers])


@pytest.mark.parametrize("editor", ["incremental", "replay"])
@pytest.mark.parametrize("options", [{}, {"screen": 0.5}, {"try_whole_reader": True, "order": "shuffle"}])
def test_effects_are_those_of_masked_runs_on_the_prompts_of_the_layer(editor, options, monkeypatch):
    model, task = tiny("llama"), random_batch(lengths=(6, 7, 6, 5, 6, 8))
    own = {layer: task[2 * (2 - layer) : 2 * (2 - layer) + 2] for layer in (2, 1, 0)}
    measure, checked = GreedySearch._recheck, []

    def check(search, row, gone, removal):
        effect, reader = measure(search, row, gone, removal), search.editor.reader
        before = search.editor.kept.clone()
        before[model.graph.edges(reader)] &= ~gone
        after = before.clone()
        after[model.graph.edges(reader)] &= ~removal
        prepared = PreparedBatch(model, own[model.graph.block(reader).layer], LogitDifference(), Resample())
        values = MaskedRun(prepared).values(torch.stack([before, after])).mean(1)
        assert effect == pytest.approx(float(values[1] - values[0]), abs=1e-9)
        checked.append(reader)
        return effect

    plain = Discoverer("cpu", callbacks=[]).run(model, task[:2], ACDC(0.02, absolute=True), sizes=())
    monkeypatch.setattr(GreedySearch, "_recheck", check)
    strategy = ACDC(0.02, absolute=True, editor=editor, prompts_per_layer=2, **options)
    found = Discoverer("cpu", callbacks=[]).run(model, task, strategy, examples=6, sizes=())
    assert len(checked) == found.metrics["edges_tested"] + found.metrics["readers_tested"] > 20
    assert {model.graph.block(reader).layer for reader in checked} == {0, 1, 2}
    assert not torch.equal(plain.circuit.kept, found.circuit.kept)


@pytest.mark.parametrize("race", [{}, {"race": 1.0, "race_start": 1}])
def test_a_layers_captures_are_free_before_those_of_the_next_are_made(monkeypatch, race):
    make, alive = SearchPrompts.editor, []

    def watch(self, layer, stage=0, **more):
        if stage == 0:
            assert not any(one() for one in alive)
        editor = make(self, layer, stage, **more)
        if stage == 0:
            alive.append(weakref.ref(editor))
        return editor

    monkeypatch.setattr(SearchPrompts, "editor", watch)
    strategy = ACDC(0.02, absolute=True, prompts_per_layer=2, **race)
    Discoverer("cpu", callbacks=[]).run(tiny("llama"), random_batch(lengths=(6,) * 6), strategy, examples=6, sizes=())
    assert len(alive) == 3


def test_prompts_beyond_the_runs_own_come_from_the_task():
    strategy = {"class_path": "acdc", "init_args": {"threshold": 0.5, "prompts_per_layer": 3}}
    seen = []
    Discoverer("cpu", callbacks=[Watch(seen.append)]).run("toy", "ioi", strategy, examples=2, sizes=())
    (run,) = seen
    made = SearchPrompts(run, per_layer=3)
    texts = [tuple(row) for layer in (2, 1, 0) for row in made._of(layer, 0).clean.tolist()]
    assert len(set(texts)) == 9


def test_stages_are_random_samples_of_a_layers_prompts_without_overlap():
    task = random_batch(lengths=(6,) * 24)
    run = discovery(tiny("llama"), task)
    for per_layer, count in ((None, 24), (8, 8)):
        made = SearchPrompts(run, per_layer=per_layer, race=2.0, race_start=2)
        assert made.totals == ([2, 4, 8] if per_layer else [2, 4, 8, 24])
        for layer in (2, 1, 0):
            first = (2 - layer) * 8 if per_layer else 0
            parts = [made._of(layer, stage).clean for stage in range(len(made.totals))]
            assert [len(torch.cat(parts[: stage + 1])) for stage in range(len(parts))] == made.totals
            rows, own = torch.cat(parts).tolist(), task.clean[first : first + count].tolist()
            assert sorted(rows) == sorted(own)
            assert rows != own, "shuffled"
