"""What prompts are good for: objectives and strategies that suit, and how many prompts an interval takes."""

import numpy as np
import pytest
import torch
from support.tiny import random_batch, tiny

from circuitkit import PromptBatch
from circuitkit.config import registry
from circuitkit.data.objectives import KLDivergence
from circuitkit.errors import UsageError
from circuitkit.evaluation.intervals import Figure, mean_figures
from circuitkit.evaluation.suitability import count_needed, measure_suitability
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.eap import EAP


def without_wrong_answers(batch: PromptBatch) -> PromptBatch:
    return PromptBatch.from_ids(batch.clean.tolist(), batch.corrupted.tolist(), batch.answers.tolist())


def test_all_suits_prompts_with_both_kinds_of_answers() -> None:
    found = measure_suitability(tiny("gpt2", dtype=torch.float32), random_batch(lengths=(6, 7, 5, 7, 6, 6)))
    assert not any(found.objectives.values())
    assert {name for name, refusing in found.strategies.items() if refusing} == {"kl", "squared_error"}
    assert {"eap", "relp"} <= set(found.strategies["kl"])
    assert not {"acdc", "eap_ig", "edge_pruning"} & set(found.strategies["kl"])
    assert found.strategies["kl"] == found.strategies["squared_error"]  # reasons too
    assert len(set(found.strategies["kl"].values())) == 1
    assert found.objective == "logit_difference"
    assert found.near_chance  # random weights
    assert found.ability.chance == 0.5
    assert found.faithfulness.value is not None


def test_what_needs_wrong_answers_does_not_suit_prompts_without() -> None:
    found = measure_suitability(
        tiny("gpt2", dtype=torch.float32), without_wrong_answers(random_batch(lengths=(6,) * 6))
    )
    refused = {name for name, why in found.objectives.items() if "needs wrong answers" in why}
    assert refused == {"logit_difference", "probability_difference"}
    assert set(found.strategies) == set(found.objectives) - refused
    assert found.objective == "answer_log_probability"
    assert found.ability.logit_difference is None


class Broken(EAP):
    """As of a package that is installed and broken."""

    def setup(self, run: Discovery) -> None:
        raise ZeroDivisionError("of a package")


class BrokenObjective(KLDivergence):
    def check(self, batch: PromptBatch) -> None:
        raise ZeroDivisionError("of a package")


def unloadable() -> None:
    raise OSError("no library")


def test_what_a_broken_package_registers_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And hides nothing else."""
    known = {("strategies", "broken"): Broken, ("objectives", "broken"): BrokenObjective}
    names, load = registry.names, registry.load

    def load_or_fail(kind: str, name: str) -> object:
        return unloadable() if name == "unloadable" else known.get((kind, name)) or load(kind, name)

    monkeypatch.setattr(registry, "names", lambda kind: [*names(kind)[:4], "broken", "unloadable", *names(kind)[4:]])
    monkeypatch.setattr(registry, "load", load_or_fail)
    found = measure_suitability(tiny("gpt2", dtype=torch.float32), random_batch(lengths=(6,) * 6))
    why = {"broken": "ZeroDivisionError: of a package", "unloadable": "OSError: no library"}
    assert {name: reason for name, reason in found.objectives.items() if reason} == why
    assert found.strategies["logit_difference"] == why
    assert "broken" not in found.strategies


def test_prompts_in_which_no_edge_matters_are_refused() -> None:
    batch = random_batch(lengths=(6,) * 6)
    same = PromptBatch.from_ids(*[batch.clean.tolist()] * 2, batch.answers.tolist(), batch.wrong_answers.tolist())  # type: ignore[misc]
    with pytest.raises(UsageError, match="no edge matters"):
        measure_suitability(tiny("gpt2", dtype=torch.float32), same)


@pytest.mark.parametrize(
    ("figure", "needed"),
    [
        (Figure(0.5, 0.3, 0.7), 200),
        (Figure(0.5, 0.45, 0.6), 50),
        (Figure(0.5, 0.45, 0.54), 13),
        (Figure(0.5, 0.5, 0.5), None),
        (Figure(0.5, None, None), None),
        (Figure(None, None, None), None),
    ],
)
def test_the_number_of_prompts_follows_from_the_width(figure: Figure, needed: int | None) -> None:
    assert count_needed(figure, 50) == needed


def test_as_many_prompts_have_such_an_interval() -> None:
    """Drawn anew, from the same distribution."""
    draw = np.random.default_rng(0)
    needed = count_needed(mean_figures(draw.normal(0.7, 0.6, 40)).figure(), 40)
    assert needed is not None
    value, low, high = mean_figures(draw.normal(0.7, 0.6, needed)).figure()
    assert value is not None
    assert low is not None
    assert high is not None
    assert 0.07 < max(high - value, value - low) < 0.13
