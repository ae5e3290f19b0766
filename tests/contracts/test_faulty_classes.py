"""Each check of tasks, objectives, policies, ablations and families finds what it is for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from circuitkit import (
    CircuitModel,
    Objective,
    PrecisionPolicy,
    PromptBatch,
    Task,
    UsageError,
)
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config import registry
from circuitkit.contracts import ablations, check_class, families
from circuitkit.contracts.objectives import check_objective_order, check_objective_values
from circuitkit.contracts.outcome import ContractError
from circuitkit.contracts.policies import check_closing, check_effects, check_groups, check_low_precision_writers
from circuitkit.contracts.prompts import random_prompts
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.models.families import Llama
from circuitkit.models.weights import ModuleWeights
from circuitkit.precision.pahq import PAHQ
from circuitkit.strategies.gim import GIMRule
from circuitkit.strategies.relp import RelPRule
from circuitkit.tasks.ioi import NAMES

DICE: list[int] = []


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


class Lowered(PrecisionPolicy):
    """Halves the weights, and does not say so."""

    def prepare(self, model: CircuitModel) -> None:
        self._model, self._before = model, [one.detach().clone() for one in model.model.parameters()]
        with torch.no_grad():
            for parameter in model.model.parameters():
                parameter.mul_(0.5)
        model.refresh()


def test_the_checks_of_policies_find_faults() -> None:
    with pytest.raises(ContractError, match="`low_precision_writers` returns None"):
        check_low_precision_writers(Lowered, CircuitModel.from_pretrained("toy"))
    with pytest.raises(ContractError, match=r"parameter .* is not as it was"):
        check_closing(Lowered, CircuitModel.from_pretrained("toy"))

    class Stays(PrecisionPolicy):
        def prepare(self, model: CircuitModel) -> None:
            model.weights = type("Other", (ModuleWeights,), {})(model.family)

    with pytest.raises(ContractError, match="still has the weights of Other"):
        check_closing(Stays, CircuitModel.from_pretrained("toy"))


class Wide(PAHQ):
    """Puts all readers into one group, so that attribution rounds nothing."""

    def groups(self, graph: EdgeGraph) -> Iterator[Sequence[int]]:
        yield range(graph.n_readers)


def test_groups_leave_something_low(toy: CircuitModel) -> None:
    check_groups(lambda: PAHQ("bf16"), toy)
    with pytest.raises(ContractError, match="attribution would round nothing"):
        check_groups(lambda: Wide("bf16"), toy)


class Counts(PrecisionPolicy):
    """Counts what is no kind of bytes."""

    def footprint(self) -> dict[str, int]:
        return {"weights": 3}


class CountsNothing(PAHQ):
    """Has low weights, and does not count them."""

    def footprint(self) -> dict[str, int]:
        return {}


def test_the_bytes_of_a_policy_are_looked_at(toy: CircuitModel) -> None:
    with pytest.raises(ContractError, match=r"`footprint` counts \['weights'\]"):
        check_effects(Counts, toy, random_prompts(toy))
    assert "does not count the bytes" in check_effects(lambda: CountsNothing("bf16"), toy, random_prompts(toy))
    assert check_effects(lambda: PAHQ("bf16"), toy, random_prompts(toy)) == ""


class Total(Objective):
    """One value for all prompts."""

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        return -logits.of(batch.answers).sum()[None].expand(len(batch))


def test_the_checks_of_objectives_find_faults(toy: CircuitModel) -> None:
    with pytest.raises(ContractError, match="`values` of 4 hypotheses gives"):
        check_objective_values(Total, toy, random_prompts(toy, positions=2, answers=3))

    class Upside(Objective):
        """Higher for better answers."""

        def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
            return logits.of(batch.answers).sum((-2, -1))

    with pytest.raises(ContractError, match="not lower for better answers"):
        check_objective_order(Upside, toy, random_prompts(toy))


class Contrast(Objective):
    """Minus the answers' logits, compared with their mean over the prompts."""

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        own = -logits.of(batch.answers[..., :1]).sum((-2, -1))
        return own - 0.5 * own.mean(-1, keepdim=True)


class OneSided(Objective):
    """Says that it is zero at the full model alone, and is zero for all worse ones."""

    zero_at_full_model = True

    def reference(self, full: Any) -> torch.Tensor:
        return full.all()

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        answers = batch.answers.clamp(min=0)
        moved = logits.all().gather(-1, answers.expand(logits.all().shape[:-1] + answers.shape[-1:]))
        return (moved - reference.gather(-1, answers)).clamp(min=0).sum((-2, -1))


class CountsPadding(Objective):
    """Takes what fills sets of answers for answers."""

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        return -logits.of(batch.answers).mean((-2, -1))


class CountsPositions(Objective):
    """Compares with the full model, also at positions that a prompt does not have."""

    needs_answers = False
    zero_at_full_model = True

    def reference(self, full: Any) -> torch.Tensor:
        return full.all().log_softmax(-1)

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        found = logits.all().log_softmax(-1)
        return (reference.exp() * (reference - found)).sum(-1).mean(-1)


class OnlyFirst(Objective):
    """Looks at the first answer of a set."""

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        return -(logits.of(batch.answers[..., :1])[..., 0] * (batch.answer_positions >= 0)).sum(-1)


class Understates(OnlyFirst):
    """Computes what it says that it does not."""

    whole_vocabulary = False

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        return (logits.all().logsumexp(-1) * (batch.answer_positions >= 0)).sum(-1)


class Detached(Objective):
    """Has no gradient."""

    def values(self, logits: Any, batch: Any, reference: Any) -> torch.Tensor:
        return (logits.all().detach().logsumexp(-1) * (batch.answer_positions >= 0)).sum(-1)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (CountsPadding, "Where sets of answers are filled up, values differ. Leave out what is -1"),
        (CountsPositions, "Where an answer position is missing, values differ. Leave out positions"),
        (OnlyFirst, "Where answers of a set are in another order, values differ. Treat all of them alike"),
        (Understates, r"says whole_vocabulary = False, and computes `logits\.all\(\)`"),
        (Detached, "`values` has no gradient"),
    ],
)
def test_the_checks_of_objectives_look_at_sets_of_answers(objective: Any, said: str, toy: CircuitModel) -> None:
    with pytest.raises(ContractError, match=said):
        check_objective_values(objective, toy, random_prompts(toy, positions=2, answers=3))


def test_the_checks_of_objectives_find_what_shows_on_some_prompts_only(toy: CircuitModel) -> None:
    with pytest.raises(ContractError, match="another value alone than in a batch"):
        check_objective_values(Contrast, toy, random_prompts(toy, positions=2, answers=3))
    with pytest.raises(ContractError, match="not zero there alone"):
        check_objective_order(OneSided, toy, random_prompts(toy))


class Words(Task):
    """Pairs of names; `fault` names what is wrong with them."""

    fault = ""

    def available(self, tokenizer: Any, split: Any, seed: int) -> int | None:
        return {"count": 99, "given": 8}.get(self.fault)

    def prompts(self, tokenizer: Any, split: Any, examples: int, seed: int) -> PromptBatch:
        names = [f" {name}" for name in NAMES[:24]]
        Random(0 if self.fault == "seed" else seed).shuffle(names)
        if self.fault == "random":
            Random(len(DICE)).shuffle(names)
            DICE.append(0)
        if self.fault == "given":  # splits, as in a file: the seed chooses nothing, since all are asked for
            names = sorted(names)
        own = names[:8] if self.fault == "splits" else names[("train", "validation", "test").index(split) * 8 :][:8]
        if tokenizer is None:
            if self.fault == "tokenizer":
                return tokenizer.encode("")  # type: ignore[no-any-return]
            raise UsageError("No tokenizer.", "Give one.")
        ids = [tokenizer.encode(f"Then,{one} and") for one in own]
        others = ids if self.fault == "same" else ids[1:] + ids[:1]
        answers = [row[-2] for row in ids]
        if self.fault == "unknown":
            others = [[*row[:-1], tokenizer.unk_token_id] for row in others]
        if self.fault == "twice":
            ids[1], others[1] = ids[0], others[0]
        return PromptBatch.from_ids(ids, others, answers, answers[1:] + answers[:1])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("random", "The same seed makes other train prompts"),
        ("splits", "Two splits share a prompt"),
        ("seed", "Another seed makes the same train prompts"),
        ("same", "A corrupted prompt is its clean one"),
        ("unknown", "A prompt has a word that this tokenizer does not know"),
        ("twice", "twice in the train split"),
        ("count", "`available` says 99 train prompts, and of 12 it made 8"),
        ("tokenizer", "It raised AttributeError"),
    ],
)
def test_the_checks_of_tasks_find_faults(fault: str, said: str, toy: CircuitModel) -> None:
    faulty = type("FaultyWords", (Words,), {"fault": fault})
    outcomes = [outcome for outcome in check_class(faulty, toy) if outcome.state == "failed"]
    assert said in outcomes[0].text
    assert fault != "count" or len(outcomes) == 1


@pytest.mark.parametrize("fault", ["", "given"])
def test_a_sound_task_passes(fault: str, toy: CircuitModel) -> None:
    sound = type("SoundWords", (Words,), {"fault": fault})
    assert {outcome.state for outcome in check_class(sound, toy)} <= {"passed", "not applicable"}


def test_a_task_that_raises_fails_in_words(toy: CircuitModel) -> None:
    class Raises(Words):
        def prompts(self, *arguments: Any, **more: Any) -> PromptBatch:
            raise KeyError("nowhere")

    outcomes = list(check_class(Raises, toy))
    assert {outcome.state for outcome in outcomes} == {"failed", "not applicable"}
    assert all("It raised KeyError: 'nowhere'" in outcome.text for outcome in outcomes if outcome.state == "failed")


def test_the_checks_of_families_find_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.wrap_tiny_model("llama")
    batch = random_prompts(model)
    for check in (families.check_ends, families.check_gradients, families.check_editors):
        check(model, batch)
    families.check_views(model)

    attribute, values = families.attribute, families.IncrementalEditor.values
    monkeypatch.setattr(families, "attribute", lambda *prepared: attribute(*prepared) * 1.01)
    with pytest.raises(ContractError, match="not those of autograd"):
        families.check_gradients(model, batch)
    monkeypatch.setattr(families.IncrementalEditor, "values", lambda self, removals: values(self, removals) + 0.01)
    with pytest.raises(ContractError, match="other effects by the incremental editor"):
        families.check_editors(model, batch)

    for value in (torch.nan, 0.0):
        monkeypatch.setattr(families, "attribute", lambda *prepared, value=value: attribute(*prepared) * value)
        with pytest.raises(ContractError, match="not those of autograd"):
            families.check_gradients(model, batch)

    own = model.family.attention_weights
    monkeypatch.setattr(model.family, "attention_weights", lambda layer: replace(own(layer), q=own(layer).q.clone()))
    with pytest.raises(ContractError, match="`q` of layer 0 is no detached view"):
        families.check_views(model)
    with torch.no_grad():
        model.model.model.norm.weight.mul_(1.1)  # the module is another than the one that was wrapped
    monkeypatch.setattr(model.family, "final_norm", lambda: replace(type(model.family).final_norm(model.family), eps=9))
    model.refresh = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(model, "_final_norm", replace(model._final_norm, weight=model._final_norm.weight * 2))
    with pytest.raises(ContractError, match="With all edges, the logits are not the module's own"):
        families.check_ends(model, batch)


@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        ("gpt2", "gated", True, "`gated` is True, but .* no longer depends on its input. Set `gated = False`"),
        ("llama", "gated", False, "`gated` is False, but .* still depends on its input. Set `gated = True`"),
        ("gpt2", "mlp_activation", lambda mlp: mlp.c_proj, r"`mlp_activation` of layer 0 returns Conv1D"),
        ("gpt2", "mlp_activation", lambda mlp: mlp.dropout, r"`mlp_activation` of layer 0 returns Dropout"),
        ("llama", "mlp_activation", lambda _: torch.nn.SiLU(), r"`mlp_activation` of layer 0 returns SiLU\(\)"),
        ("gpt2", "final_norm", lambda: torch.nn.LayerNorm(16), "`final_norm` returns a LayerNorm. Return"),
        ("gpt2", "mlp_norm", lambda _: torch.nn.LayerNorm(16), "`mlp_norm` returns a LayerNorm. Return"),
    ],
)
def test_what_only_changed_gradients_need_is_checked(
    kind: str, name: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.wrap_tiny_model(kind)
    check = families.check_norms if "norm" in name else families.check_mlps
    check(model)
    model.model.train()  # in which dropout is active
    check(model)
    monkeypatch.setattr(model.family, name, value)
    with pytest.raises(ContractError, match=said):
        check(model)


@pytest.mark.parametrize("kind", registry.names("families"))
def test_our_families_say_what_their_norms_and_mlps_are(kind: str) -> None:
    model = families.wrap_tiny_model(kind)
    families.check_norms(model)
    families.check_mlps(model)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2", "phi"])
def test_first_order_effects_by_other_backward_rules_are_checked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.wrap_tiny_model(kind)
    batch = random_prompts(model)
    for rule in (RelPRule(), GIMRule()):
        families.check_gradients(model, batch, rule)
    attribute = families.attribute
    monkeypatch.setattr(families, "attribute", lambda prepared, _: attribute(prepared))
    with pytest.raises(ContractError, match="not those of autograd"):
        families.check_gradients(model, batch, RelPRule())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_a_model_that_computes_nothing_is_compared_with_nothing(value: float) -> None:
    model = families.wrap_tiny_model("llama")
    with torch.no_grad():
        model.model.get_output_embeddings().weight.fill_(value)
    for check in (families.check_ends, families.check_gradients):
        with pytest.raises(ContractError, match="not finite, or zero everywhere"):
            check(model, random_prompts(model))


def test_a_family_that_is_registered_for_nothing_fails() -> None:
    class Unknown(Llama):
        """Nobody's."""

    (outcome,) = check_class(Unknown)
    assert outcome.state == "failed"
    assert "No entry point" in outcome.text


def test_two_editors_are_compared_on_a_sample_of_a_large_model(
    monkeypatch: pytest.MonkeyPatch, toy: CircuitModel
) -> None:
    assert families._sample(5) == [0, 1, 2, 3, 4]
    assert families._sample(1) == [0]
    chosen = families._sample(1000)
    assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 999, families._CHECKED)

    monkeypatch.setattr(families, "_CHECKED", 3)
    seen, values = [], families.ReplayEditor.values
    monkeypatch.setattr(
        families.ReplayEditor, "values", lambda self, some: seen.append((self.reader, len(some))) or values(self, some)
    )
    families.check_editors(toy, random_prompts(toy))
    assert len(seen) == 3
    assert max(count for _, count in seen) == 3
    assert (seen[0][0], seen[-1][0]) == (toy.graph.n_readers - 1, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"o": lambda weights: weights.o[:, :, :-1]}, "`o` of layer 0 has the shape"),
        ({"o_bias": lambda weights: weights.o_bias.clone()}, "`o_bias` of layer 0 is no detached view"),
    ],
)
def test_views_are_of_the_shape_and_memory_of_parameters(
    change: dict[str, Callable[[Any], torch.Tensor]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.wrap_tiny_model("gpt2")
    own, ((name, make),) = model.family.attention_weights, change.items()
    families.check_views(model)
    monkeypatch.setattr(
        model.family, "attention_weights", lambda layer: replace(own(layer), **{name: make(own(layer))})
    )
    with pytest.raises(ContractError, match=said):
        families.check_views(model)


class SaysItIsARun(Zero):
    """Zeros are those of no run."""

    is_run = True


class SaysOneForAll(Resample):
    """Every prompt has its own."""

    per_prompt = False


class SaysTooLate(Resample):
    """They differ at once."""

    def first_changed_position(self, batch: PromptBatch) -> int:
        return batch.length - 1


@pytest.mark.parametrize(
    ("make", "check", "said"),
    [
        (SaysItIsARun, ablations.check_ablated_circuits, "Circuits compute something else"),
        (SaysTooLate, ablations.check_ablated_circuits, "Circuits compute something else"),
        (SaysTooLate, ablations.check_ablated_outputs, "before `first_changed_position`, 5, are not those"),
        (SaysOneForAll, ablations.check_ablated_outputs, "its outputs differ between prompts"),
    ],
)
def test_what_an_ablation_declares_is_checked(
    make: type[Resample], check: Callable[..., None], said: str, toy: CircuitModel
) -> None:
    with pytest.raises(ContractError, match=said):
        check(make, toy, random_prompts(toy, lengths=(6,) * 4))


def test_the_checks_of_ablations_find_faults(toy: CircuitModel) -> None:
    class Narrow(Resample):
        def outputs(self, *arguments: Any) -> torch.Tensor:
            return super().outputs(*arguments)[:3]

    class Infinite(Zero):
        def outputs(self, *arguments: Any) -> torch.Tensor:
            return super().outputs(*arguments) + torch.inf

    batch = random_prompts(toy, lengths=(6,) * 4)
    with pytest.raises(ContractError, match="Ablated outputs have the shape"):
        ablations.check_ablated_outputs(Narrow, toy, batch)
    ablations.check_ablated_outputs(Resample, toy, batch)
    ablations.check_ablation_runs(Resample, toy, batch)
    with pytest.raises(ContractError, match="not finite"):
        ablations.check_ablated_outputs(Infinite, toy, batch)
    with pytest.raises(ContractError, match=r"is NaN|not finite"):
        ablations.check_ablation_runs(Infinite, toy, batch)
