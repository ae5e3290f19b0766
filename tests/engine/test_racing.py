"""Racing: its stages, its standard errors, and that it decides as a search on all prompts does."""

import math

import pytest
import torch
from support.prepared import ABLATIONS
from support.tiny import random_batch, tiny

from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.engine.search.items import Item
from circuitkit.engine.search.measurement import Measurement
from circuitkit.engine.search.racing import AUDIT_COST, Race, Trial, stages, summarize
from circuitkit.storage.state import load_state, save_state

HUGE = 1e300


def searched(
    z, totals=(3, 6, 12), variant="llama", kind=IncrementalEditor, objective=LogitDifference, state=None, **more
):
    """A raced search, or a plain one on all prompts if z is None."""
    model, batch = tiny(variant), random_batch(1, lengths=(6, 7, 5) * 4)
    totals = list(totals)

    def make(layer, stage=0):
        part = batch[totals[stage - 1] if stage else 0 : totals[stage]]
        return kind(prepare_batches(model, part.split(4), objective(), ABLATIONS[0]()))

    if z is None:
        totals = [len(batch)]
    measurement = Measurement() if z is None else Race(z, totals, make, False)
    more = {"threshold": 0.03, "absolute": True} | more
    search = GreedySearch(make(2), measurement=measurement, **more)
    if state is not None:
        search.load_state_dict(state)
    search.run()
    return search


@pytest.mark.parametrize(
    ("prompts", "first", "expected"),
    [
        (128, 16, [16, 32, 64, 128]),
        (127, 16, [16, 32, 127]),
        (100, 16, [16, 32, 100]),
        (33, 16, [16, 33]),
        (31, 16, [31]),
        (16, 16, [16]),
        (3, 1, [1, 3]),
    ],
)
def test_each_stage_at_least_doubles_the_prompts(prompts, first, expected):
    assert stages(prompts, first) == expected


@pytest.mark.parametrize("kind", [IncrementalEditor, ReplayEditor])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "gpt2", "absolute": False, "try_whole_reader": True},
        {"variant": "gpt_neox", "objective": KLDivergence, "threshold": 0.01, "order": "normal"},
        {"variant": "gemma2", "threshold": 0.01, "try_whole_reader": True},
    ],
)
def test_with_many_standard_errors_it_is_the_search_on_all_prompts(kind, options):
    plain, raced = searched(None, kind=kind, **options), searched(HUGE, kind=kind, **options)
    assert torch.equal(raced.kept, plain.kept)
    assert torch.equal(raced.score_sources, plain.score_sources)
    assert torch.allclose(raced.scores, plain.scores, atol=1e-10)
    assert 0 < int(plain.kept.sum()) < len(plain.kept)
    race = raced.measurement
    assert race.decisions == raced.tests + raced.whole_tests
    assert race.flipped < race.escalated
    assert race.flipped or "variant" in options, "few prompts would have decided otherwise"


@pytest.mark.parametrize("screen", [None, 0.5])
def test_with_one_stage_it_is_the_plain_search(screen):
    plain, raced = searched(None, screen=screen), searched(3.0, totals=[12], screen=screen)
    assert torch.equal(raced.kept, plain.kept)
    assert torch.equal(raced.score_sources, plain.score_sources)
    assert torch.allclose(raced.scores, plain.scores, atol=1e-10)
    assert raced.joint_tests == plain.joint_tests
    assert (raced.joint_tests > 0) == (screen is not None)


@pytest.mark.parametrize("options", [{}, {"screen": 0.5}, {"try_whole_reader": True}])
def test_fewer_prompts_per_decision_and_few_other_decisions(options, monkeypatch):
    monkeypatch.setattr("circuitkit.engine.search.racing.AUDITS", 3)
    plain, raced = searched(None, **options), searched(1.0, **options)
    race = raced.measurement
    assert race.decisions == raced.tests + raced.whole_tests + raced.joint_tests
    assert 3 * race.decisions < race.prompts < 8 * race.decisions
    assert 0 < race.escalated < race.decisions
    assert 0 < race.early < race.decisions
    assert race.audited == 3
    assert raced.forward_equivalents < plain.forward_equivalents
    # Of three prompts and at one standard error; the audit repeats three of these decisions on all prompts
    assert float((raced.kept != plain.kept).double().mean()) < 0.12


def test_the_joint_effect_of_a_group_and_its_estimates_are_of_the_same_prompts():
    """A race that is never clear compares, at the last stage, what a search on all prompts compares."""
    tests, opened = [], {}

    class Spy(GreedySearch):
        def _open(self, reader):
            super()._open(reader)
            opened[reader] = self.editor.kept.clone()  # the estimates are those of this circuit

        def _passes_joint_test(self, row):
            trial = self.measurement._trials[row]
            gone = self.measurement._rows[trial.place].clone()
            gone[trial.item.writers] = False
            tests.append((self.editor.reader, self.editor.kept.clone(), gone, trial))
            return super()._passes_joint_test(row)

    model, batch = tiny("llama"), random_batch(1, lengths=(6, 7, 5) * 4)
    totals = [3, 6, 12]

    def make(layer, stage=0):
        part = batch[totals[stage - 1] if stage else 0 : totals[stage]]
        return IncrementalEditor(prepare_batches(model, [part], LogitDifference(), ABLATIONS[0]()))

    Spy(make(2), 0.03, True, screen=0.5, measurement=Race(HUGE, totals, make, False)).run()
    assert len(tests) > 3
    whole = ReplayEditor(prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0]()))
    for reader, kept, gone, trial in tests:
        removed, writers = gone.clone(), trial.item.writers
        removed[writers] = True
        whole.restart(opened[reader])
        whole.open(reader)
        estimates = whole.gradient()
        whole.restart(kept)
        whole.open(reader)
        _, before, after = whole.values(torch.stack([gone, removed])).tolist()
        assert trial.mean == pytest.approx(after - before - float(estimates[writers].sum()), abs=1e-9)


def test_the_standard_error_is_that_of_means_of_samples_without_replacement():
    """Against the means of all samples of 3 out of 8 prompts."""
    values = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = torch.combinations(values, 3)
    errors = []
    for sample in samples:
        race = Race(1.0, [3, 8], lambda *_: pytest.fail("needs no editor"), False)
        race._values = lambda stage, removals, sample=sample: torch.stack([torch.zeros_like(sample), sample])
        trial = Trial(1, 0, Item([0], True, False), lambda effect: effect)
        race._rows = torch.ones(2, 1, dtype=torch.bool)
        race._extend([trial], 0)
        assert trial.mean == pytest.approx(float(sample.mean()))
        errors.append(trial.error**2)
    assert sum(errors) / len(errors) == pytest.approx(float(samples.mean(1).var(correction=0)))


@pytest.mark.parametrize("most_updates", [0, 4])
@pytest.mark.parametrize("options", [{}, {"screen": 0.5, "try_whole_reader": True}])
def test_a_raced_search_resumed_after_any_reader_is_bit_equal(options, most_updates, monkeypatch, tmp_path):
    monkeypatch.setattr("circuitkit.engine.search.removals.MOST_UPDATES", most_updates)
    states = []

    def keep(search):
        save_state(tmp_path / "state", search.state_dict())
        states.append(load_state(tmp_path / "state"))

    whole = searched(2.0, on_reader_end=keep, **options)
    places = [place for state in states for place in state["measurement"]["later"]]
    assert any(built < reached for _, built, reached in places), "updated"
    assert any(built for _, built, _ in places) == (most_updates == 0), "built again within a layer"
    for state in states[::5]:
        resumed = searched(2.0, state=state, **options)
        assert torch.equal(resumed.scores, whole.scores)
        assert torch.equal(resumed.kept, whole.kept)
        assert resumed.measurement.counts() == whole.measurement.counts()
        assert resumed.hypotheses == whole.hypotheses


def test_the_audit_estimates_how_many_early_decisions_are_wrong():
    counts = {"race_decisions": 1000, "race_prompts": 20_000, "race_early": 900, "race_audited": 64}
    found = summarize(counts | {"race_audits_flipped": 2})
    assert found["prompts_per_decision"] == 20
    assert found["race_flip_rate"] == 2 / 64
    p, n, q = 2 / 64, 64, 1.959964**2  # Wilson's interval by its formula
    centre, half = (p + q / (2 * n)) / (1 + q / n), math.sqrt(q * (p * (1 - p) / n + q / (4 * n * n))) / (1 + q / n)
    assert found["race_flip_rate_low"] == pytest.approx(centre - half)
    assert found["race_flip_rate_high"] == pytest.approx(centre + half)
    assert found["race_missed"] == pytest.approx(836 * 2 / 64)
    assert summarize(counts | {"race_audited": 0}) == {"prompts_per_decision": 20}


def test_audits_are_spread_over_the_search_and_their_outcome_is_used(monkeypatch):
    monkeypatch.setattr("circuitkit.engine.search.racing.AUDITS", 5)
    settle, seen = Race.settle, []

    def spy(race, number, progress):
        audited, trial = race.audited, race._trials[number]
        effect = settle(race, number, progress)
        if race.audited > audited:
            seen.append((progress, len(trial.sample), trial.mean == effect))
        return effect

    monkeypatch.setattr(Race, "settle", spy)
    search = searched(1.0)
    assert len(seen) == search.measurement.audited == 5
    assert AUDIT_COST * 3 * search.measurement.decisions >= 12 * 4
    assert all(count == 12 and used for _, count, used in seen)
    assert [progress * 5 >= number for number, (progress, _, _) in enumerate(seen)] == [True] * 5
    assert seen[0][0] < 0.1
    assert seen[-1][0] >= 0.8
