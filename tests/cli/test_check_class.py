"""`circuitkit check CLASS`: the checks of a class of one's own, and that each finds what it is for."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from support.outside import EXAMPLES

from circuitkit import (
    Circuit,
    CircuitModel,
    DiscoveryStrategy,
    Objective,
    PrecisionPolicy,
    PromptBatch,
    Task,
    UsageError,
)
from circuitkit.cli.main import main
from circuitkit.contracts import Outcome, check_class, models
from circuitkit.contracts.arguments import check_arguments
from circuitkit.contracts.models import random_prompts
from circuitkit.contracts.outcome import ContractError, NotApplicableError
from circuitkit.contracts.policies import check_closing, check_low_precision_writers
from circuitkit.contracts.resuming import Interrupting, _interrupt, check_forgetting, check_resuming
from circuitkit.contracts.strategies import (
    StrategyCase,
    check_cost,
    check_operating_point,
    check_same_seed,
    check_scores,
)
from circuitkit.contracts.tasks import check_objective_order, check_objective_values
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.models.families import Llama
from circuitkit.models.weights import ModuleWeights
from circuitkit.strategies.base import OperatingPoint
from circuitkit.tasks.ioi import NAMES
from circuitkit.tasks.prompt_file import PromptFile


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


def test_the_command_shows_a_line_per_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(EXAMPLES / "my_objective")
    assert main(["check", "my_objective.Margin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "passed          gives one value per prompt, with a gradient"
    assert lines[-1] == "3 passed"


def test_the_command_fails_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_to_check.py").write_text(
        "from circuitkit import Objective\n\n\n"
        "class Upside(Objective):\n"
        '    """Higher is better."""\n\n'
        "    def values(self, logits, batch, reference):\n"
        "        return logits.of(batch.answers).sum((-2, -1))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", "mine_to_check.Upside"]) == 1
    text = capsys.readouterr().out
    assert "failed          is lower for better answers: It is not lower for better answers. Negate it" in text


def test_arguments_come_with_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    spec = "{class_path: answer_log_probability, init_args: {}}"
    assert main(["check", spec]) == 0
    assert "3 passed" in capsys.readouterr().out


BROKEN = {
    "one": "undefined",
    "two": "def :",
    "three": "from circuitkit import DiscoveryStrategy\n\n\n"
    "class Strategy(DiscoveryStrategy):\n"
    "    def __init__(self):\n"
    "        {}['steps']\n\n"
    "    def discover(self, run):\n"
    "        return None\n",
}
"""Modules that cannot be imported, and a constructor that raises."""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("eapp", "no strategy, task, precision policy, ... called 'eapp'. Did you mean 'eap'"),
        ("nowhere.Strategy", "'nowhere.Strategy' cannot be imported"),
        ("circuitkit.tasks.Nothing", "cannot be imported"),
        ("circuitkit.Circuit", "is no strategy, task, precision policy, objective, ablation or family"),
        ("{class_path: my.S", "is not YAML"),
        ("{class_path: eap_ig, init_args: {stepz: 3}}", "stepz"),
        ("{init_args: {}}", "names no class"),
        ("{class_path: gptj, init_args: {heads: 3}}", "A family takes no init_args"),
        ("broken_one.Strategy", "It raised NameError: name 'undefined' is not defined (broken_one.py, line 1)"),
        ("broken_two.Strategy", "'broken_two.Strategy' cannot be imported. It raised SyntaxError"),
        ("broken_three.Strategy", "Strategy cannot be made. It raised KeyError: 'steps' (broken_three.py, line 6)"),
    ],
)
def test_what_is_no_class_of_ours_is_refused(
    what: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(text)
    assert main(["check", what]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_class_that_needs_arguments_is_refused_without_them() -> None:
    with pytest.raises(UsageError, match=r"PromptFile cannot be made\. It raised TypeError.*missing"):
        next(check_class(PromptFile))


FAMILIES = ["gptj", "tracr", "circuitkit.models.families.Llama", "GPTJ", {"class_path": "gptj"}]


@pytest.mark.parametrize("name", [*FAMILIES, "mean", "Zero"])
def test_families_and_ablations_are_checked(name: str | dict[str, str]) -> None:
    outcomes = list(check_class(name))
    assert len(outcomes) >= 2
    assert {outcome.state for outcome in outcomes} == {"passed"}


def test_a_task_whose_words_the_model_does_not_know_is_not_judged() -> None:
    states: dict[str, Outcome] = {outcome.state: outcome for outcome in check_class("capital")}
    assert "it refused: " in states["not applicable"].text
    assert "name another with --model" in states["not applicable"].text
    assert set(states) == {"not applicable"}
    assert main(["check", "capital"]) == 1


def test_a_family_is_checked_on_models_that_it_wraps() -> None:
    first, *others = check_class("llama", "toy")
    assert (first.state, others) == ("failed", [])
    assert "is wrapped by the family GPT2 and not by Llama" in first.text
    assert next(check_class("gpt2", CircuitModel.from_pretrained("toy"))).state == "passed"


# Each check finds what it is for


class Faulty(DiscoveryStrategy):
    """EAP with a fault.

    Args:
        size: of the circuit.
    """

    def __init__(self, size: float = 0.5) -> None:
        self.size = size
        self._memory: list[float] = []

    def discover(self, run: Any) -> Circuit:
        return Circuit.from_scores(run.model.graph, run.attribution())


class Infinite(Faulty):
    """Infinite scores; size."""

    def discover(self, run: Any) -> Circuit:
        return Circuit.from_scores(run.model.graph, torch.full_like(run.attribution(), torch.inf))


class ChangesWeights(Faulty):
    """Changes weights; size."""

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        with torch.no_grad():
            next(run.model.model.parameters()).add_(1e-3)
        return Circuit.from_scores(run.model.graph, scores)


class LeavesHooks(Faulty):
    """Leaves a hook; size."""

    def discover(self, run: Any) -> Circuit:
        run.model.model.register_forward_hook(lambda *_: None)
        return Circuit.from_scores(run.model.graph, run.attribution())


class OwnDice(Faulty):
    """Randomness of its own; size."""

    def discover(self, run: Any) -> Circuit:
        noise = torch.rand(len(run.model.graph), generator=torch.Generator().manual_seed(id(run) % 2**31 + len(DICE)))
        DICE.append(0)
        return Circuit.from_scores(run.model.graph, run.attribution() + noise)


DICE: list[int] = []


class SharedDice(Faulty):
    """Torch's own generator; size."""

    def discover(self, run: Any) -> Circuit:
        state = torch.get_rng_state()
        noise = torch.rand(len(run.model.graph), dtype=torch.float64)
        torch.set_rng_state(state)  # so that nothing seems changed
        return Circuit.from_scores(run.model.graph, run.attribution() + noise)


class Leaves(Faulty):
    """Leaves global state as it must not; size."""

    change: Callable[[], object]

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        type(self).change()
        return Circuit.from_scores(run.model.graph, scores)


def leaving(change: Callable[[], object]) -> type[Faulty]:
    return type("Leaving", (Leaves,), {"change": staticmethod(change)})


class ChangesModules(Faulty):
    """Changes what is no parameter; size."""

    change: Callable[[Any], object]

    def discover(self, run: Any) -> Circuit:
        type(self).change(run.model.model)
        return Circuit.from_scores(run.model.graph, run.attribution())


def changing(change: Callable[[Any], object]) -> type[Faulty]:
    return type("Changing", (ChangesModules,), {"change": staticmethod(change)})


def replace_hook(module: Any) -> None:
    module.register_forward_pre_hook(lambda *_: None)
    module._forward_pre_hooks.pop(min(module._forward_pre_hooks))


class Remembers(Faulty):
    """Keeps the scores of the run before; size."""

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        self._memory.append(float(scores.sum()))
        return Circuit.from_scores(run.model.graph, scores + len(self._memory))


class RemembersInItsClass(Faulty):
    """Counts its runs; size."""

    runs = 0

    def discover(self, run: Any) -> Circuit:
        type(self).runs += 1
        return Circuit.from_scores(run.model.graph, run.attribution() + self.runs)


class ForgetsOnResume(Faulty):
    """Continues with a wrong state; size."""

    def discover(self, run: Any) -> Circuit:
        total = torch.zeros(len(run.model.graph), dtype=torch.float64)
        for step in range(3):
            total = total + run.attribution()
            run.checkpoint(lambda step=step: {"step": step})
        return Circuit.from_scores(run.model.graph, total * (2.0 if run.resumed else 1.0))


class ForgetsInSilence(Faulty):
    """Continues with a wrong state, and reports no progress; size."""

    def discover(self, run: Any) -> Circuit:
        total = torch.zeros(len(run.model.graph), dtype=torch.float64)
        (batch,) = run.batches
        for step in range(3):
            total = total + float(batch.clean[0, -1]) + step
            run.checkpoint(lambda step=step: {"step": step})
        return Circuit.from_scores(run.model.graph, total * (2.0 if run.resumed else 1.0))


class WritesTypesAsText(Faulty):
    """EAP with a type that is a text, as under `from __future__ import annotations`.

    Args:
        size: of the circuit.
    """

    def __init__(self, size: "float" = 0.5) -> None:
        super().__init__(size)


class Undescribed(Faulty):
    """EAP of any size, with one argument more: count is nowhere described as an argument."""

    def __init__(self, size: float = 0.5, count: bool = True) -> None:
        if not size > 0:
            raise UsageError("No size.", "Give one.")
        super().__init__(size)
        self.count = count


class SwallowsInterrupts(Faulty):
    """Goes on after Ctrl-C; size."""

    def discover(self, run: Any) -> Circuit:
        try:
            scores = run.attribution()
        except KeyboardInterrupt:
            scores = torch.zeros(len(run.model.graph), dtype=torch.float64)
        return Circuit.from_scores(run.model.graph, scores)


class Nonsense(Faulty):
    """Negative time; size."""

    def estimate_cost(self, run: Any) -> CostEstimate:
        return CostEstimate(search_s=(-1.0, 1.0))


class GrowsWithSize(Faulty):
    """Larger at larger values of size."""

    operating_point = OperatingPoint("size", fraction=True)

    def discover(self, run: Any) -> Circuit:
        graph = run.model.graph
        return Circuit.from_scores(graph, run.attribution()).top(int(self.size * len(graph)))


class IgnoresSize(Faulty):
    """The same circuit at all values of size."""

    operating_point = OperatingPoint("size")


class Wavers(Faulty):
    """A middle value of size makes the smallest circuit."""

    operating_point = OperatingPoint("size", fraction=True)

    def discover(self, run: Any) -> Circuit:
        graph = run.model.graph
        edges = 9 if 0.4 < self.size < 0.6 else 20 if self.size < 0.4 else 15
        return Circuit.from_scores(graph, run.attribution()).top(edges)


Check = Callable[[StrategyCase], Any]


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (Faulty, check_arguments, "size=nan is accepted"),
        (WritesTypesAsText, check_arguments, "size=nan is accepted"),
        (Undescribed, check_arguments, "does not say what 'count' is"),
        (IgnoresSize, check_operating_point, "Circuits at values of size from .* all have"),
        (Wavers, check_operating_point, r"rising values of size have \[20, 9, 15\] edges"),
        (Infinite, check_scores, "not finite"),
        (ChangesWeights, check_scores, "parameter transformer.wte.weight is not as it was"),
        (LeavesHooks, check_scores, "other hooks"),
        (leaving(lambda: torch.set_grad_enabled(False)), check_scores, "The grad mode is not as it was"),
        (leaving(lambda: torch.set_default_dtype(torch.float64)), check_scores, "default dtype is not"),
        (leaving(lambda: torch.manual_seed(0)), check_scores, "state of torch's generator is not"),
        (leaving(random.random), check_scores, "state of Python's generator is not"),
        (leaving(lambda: np.random.seed(5)), check_scores, "state of numpy's generator is not"),  # noqa: NPY002
        (changing(lambda module: module.train()), check_scores, "in another mode than before"),
        (changing(lambda module: module.register_buffer("own", torch.zeros(1))), check_scores, "buffer own is not"),
        (changing(lambda module: module.register_full_backward_pre_hook(print)), check_scores, "other hooks"),
        (changing(replace_hook), check_scores, "other hooks"),
        (SharedDice, check_same_seed, "Two runs of one seed give"),
        (OwnDice, check_same_seed, "Two runs of one seed give"),
        (Remembers, check_forgetting, "A run changes the attributes"),
        (RemembersInItsClass, check_forgetting, "in its run number 2"),
        (ForgetsOnResume, check_resuming, "resumed, and one that was not, give"),
        (ForgetsInSilence, check_resuming, "interrupted after state 1 of 3 was saved, and resumed"),
        (SwallowsInterrupts, check_resuming, "KeyboardInterrupt does not end it"),
        (Nonsense, check_cost, "negative or not finite"),
        (GrowsWithSize, check_operating_point, "Circuits at rising values of size have"),
    ],
)  # fmt: skip
def test_a_check_of_strategies_finds_its_fault(kind: type[Faulty], check: Check, said: str) -> None:
    model = CircuitModel.from_pretrained("toy")  # one of its own: a fault changes it
    model.model.register_forward_pre_hook(lambda *_: None)
    case = StrategyCase(kind, model, random_prompts(model), random_prompts(model, 1))
    with pytest.raises(ContractError, match=said):
        check(case)


def test_an_exception_out_of_a_class_is_a_failure_that_names_its_line() -> None:
    class Raises(Faulty):
        """Raises; size."""

        def discover(self, run: Any) -> Circuit:
            raise KeyError("nothing here")

    from circuitkit.contracts.outcome import run_check

    model = CircuitModel.from_pretrained("toy")
    case = StrategyCase(Raises, model, random_prompts(model), random_prompts(model))
    state = run_check("runs", lambda: check_scores(case))
    assert state.state == "failed"
    assert "It raised KeyError: 'nothing here' (test_check_class.py, line" in state.text


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


def test_the_checks_of_objectives_find_what_shows_on_some_prompts_only(toy: CircuitModel) -> None:
    with pytest.raises(ContractError, match="another value alone than in a batch"):
        check_objective_values(Contrast, toy, random_prompts(toy, positions=2, answers=3))
    with pytest.raises(ContractError, match="not zero there alone"):
        check_objective_order(OneSided, toy, random_prompts(toy))


def test_an_interruption_by_the_user_ends_the_check(toy: CircuitModel, tmp_path: Path) -> None:
    class CtrlC(Faulty):
        """Interrupted from outside; size."""

        def discover(self, run: Any) -> Circuit:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _interrupt(StrategyCase(CtrlC, toy, random_prompts(toy), "ioi"), Interrupting(1), tmp_path / "run")


def test_not_applicable_says_why(toy: CircuitModel) -> None:
    class Plain(DiscoveryStrategy):
        def discover(self, run: Any) -> Circuit:
            raise UsageError("Nothing.", "Nothing.")

    case = StrategyCase(Plain, toy, random_prompts(toy), random_prompts(toy))
    for check, said in ((check_arguments, "no arguments"), (check_operating_point, "declares no `operating_point`")):
        with pytest.raises(NotApplicableError, match=said):
            check(case)


# Tasks, families and ablations


class Words(Task):
    """Pairs of names; `fault` names what is wrong with them."""

    fault = ""

    def available(self, tokenizer: Any, split: Any, seed: int) -> int | None:
        return 99 if self.fault == "count" else None

    def prompts(self, tokenizer: Any, split: Any, examples: int, seed: int) -> PromptBatch:
        names = [f" {name}" for name in NAMES[:24]]
        Random(0 if self.fault == "seed" else seed).shuffle(names)
        if self.fault == "random":
            Random(len(DICE)).shuffle(names)
            DICE.append(0)
        own = names[:8] if self.fault == "splits" else names[("train", "validation", "test").index(split) * 8 :][:8]
        if tokenizer is None:
            if self.fault == "tokenizer":
                return tokenizer.encode("")  # type: ignore[no-any-return]
            raise UsageError("No tokenizer.", "Give one.")
        ids = [tokenizer.encode(f"Then,{one} and") for one in own]
        others = ids if self.fault == "same" else ids[1:] + ids[:1]
        answers = [row[-2] for row in ids]
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


def test_a_sound_task_passes(toy: CircuitModel) -> None:
    assert {outcome.state for outcome in check_class(Words, toy)} == {"passed", "not applicable"}


def test_the_checks_of_families_find_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.wrap_tiny_model("llama")
    batch = models.random_prompts(model)
    for check in (models.check_ends, models.check_gradients, models.check_editors):
        check(model, batch)
    models.check_views(model)

    attribute, values = models.attribute, models.IncrementalEditor.values
    monkeypatch.setattr(models, "attribute", lambda prepared: attribute(prepared) * 1.01)
    with pytest.raises(ContractError, match="not those of autograd"):
        models.check_gradients(model, batch)
    monkeypatch.setattr(models.IncrementalEditor, "values", lambda self, removals: values(self, removals) + 0.01)
    with pytest.raises(ContractError, match="other effects by the incremental editor"):
        models.check_editors(model, batch)

    for value in (torch.nan, 0.0):
        monkeypatch.setattr(models, "attribute", lambda prepared, value=value: attribute(prepared) * value)
        with pytest.raises(ContractError, match="not those of autograd"):
            models.check_gradients(model, batch)

    own = model.family.attention_weights
    monkeypatch.setattr(model.family, "attention_weights", lambda layer: replace(own(layer), q=own(layer).q.clone()))
    with pytest.raises(ContractError, match="`q` of layer 0 is no detached view"):
        models.check_views(model)
    with torch.no_grad():
        model.model.model.norm.weight.mul_(1.1)  # the module is another than the one that was wrapped
    monkeypatch.setattr(model.family, "final_norm", lambda: replace(type(model.family).final_norm(model.family), eps=9))
    model.refresh = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(model, "_final_norm", replace(model._final_norm, weight=model._final_norm.weight * 2))
    with pytest.raises(ContractError, match="With all edges, the logits are not the module's own"):
        models.check_ends(model, batch)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_a_model_that_computes_nothing_is_compared_with_nothing(value: float) -> None:
    model = models.wrap_tiny_model("llama")
    with torch.no_grad():
        model.model.get_output_embeddings().weight.fill_(value)
    for check in (models.check_ends, models.check_gradients):
        with pytest.raises(ContractError, match="not finite, or zero everywhere"):
            check(model, models.random_prompts(model))


def test_a_family_that_is_registered_for_nothing_fails() -> None:
    class Unknown(Llama):
        """Nobody's."""

    (outcome,) = check_class(Unknown)
    assert outcome.state == "failed"
    assert "No entry point" in outcome.text


def test_the_checks_of_ablations_find_faults(toy: CircuitModel) -> None:
    class Narrow(Resample):
        def outputs(self, *arguments: Any) -> torch.Tensor:
            return super().outputs(*arguments)[:3]

    class Infinite(Zero):
        def outputs(self, *arguments: Any) -> torch.Tensor:
            return super().outputs(*arguments) + torch.inf

    batch = random_prompts(toy, lengths=(6,) * 4)
    with pytest.raises(ContractError, match="Ablated outputs have the shape"):
        models.check_ablated_outputs(Narrow, toy, batch)
    models.check_ablated_outputs(Resample, toy, batch)
    models.check_ablation_runs(Resample, toy, batch)
    with pytest.raises(ContractError, match="not finite"):
        models.check_ablated_outputs(Infinite, toy, batch)
    with pytest.raises(ContractError, match=r"is NaN|not finite"):
        models.check_ablation_runs(Infinite, toy, batch)
