"""What every task and every objective must do: the registered ones, and those from outside the package."""

from contextlib import nullcontext

import pytest
import torch
from support.outside import outside
from support.tiny import random_batch, tiny
from support.word_tokenizers import byte_level, random_reader

from circuitkit import CircuitModel
from circuitkit.config import registry
from circuitkit.contracts import objectives
from circuitkit.contracts import tasks as checks
from circuitkit.contracts.outcome import NotApplicableError
from circuitkit.errors import UsageError

FOR_THEIR_OWN_MODEL = {"tracr_frac_prevs": "tracr-frac-prevs", "tracr_reverse": "tracr-reverse"}
TASKS = {"repeated_names": outside("my_task").RepeatedNames} | {
    name: registry.load("tasks", name)
    for name in registry.names("tasks")
    if name != "prompt_file"  # which needs a file
}
OBJECTIVES = {"margin": outside("my_objective").Margin} | {
    name: registry.load("objectives", name) for name in registry.names("objectives")
}
OF_THE_TOY = ("ioi", "induction", "repeated_names")
"""The tasks whose words the toy knows; the others have a random model that knows the words of all."""


@pytest.fixture(scope="module")
def models() -> dict[str, CircuitModel]:
    """The model of each task."""
    toy, random = CircuitModel.from_pretrained("toy"), random_reader(byte_level())
    own = {name: CircuitModel.from_pretrained(model) for name, model in FOR_THEIR_OWN_MODEL.items()}
    return {name: own.get(name, toy if name in OF_THE_TOY else random) for name in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_makes_disjoint_splits_that_the_seed_decides(name, models):
    made = checks.check_prompts(TASKS[name], models[name].tokenizer)
    if name != "tracr_frac_prevs":  # whose answers are numbers
        for batch in made.values():
            assert torch.equal((batch.answers >= 0).any(-1), batch.answer_positions >= 0)
    checks.check_no_tokenizer(TASKS[name])
    with pytest.raises(NotApplicableError) if name == "repeated_names" else nullcontext():
        checks.check_available(TASKS[name], models[name].tokenizer)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_can_be_previewed_and_run(name, models):
    assert "answer after token" in TASKS[name]().preview(models[name], 1)
    checks.check_task_runs(TASKS[name], models[name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gives_one_value_per_prompt(name):
    """Also with several answers, hypotheses before the prompts, and prompts with fewer answers."""
    batch = random_batch(positions=2, answers=3)
    batch.answers[0, :, 1:], batch.wrong_answers[1, :, 2] = -1, -1
    objectives.check_objective_values(OBJECTIVES[name], tiny("gpt2"), batch)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_lower_for_better_answers(name):
    objectives.check_objective_order(OBJECTIVES[name], tiny("gpt2"), random_batch())


@pytest.mark.parametrize(("kind", "arguments"), [("my_task", {"place": "2 b"}), ("my_objective", {"margin": 0})])
def test_examples_refuse_wrong_arguments(kind, arguments):
    made = {"my_task": TASKS["repeated_names"], "my_objective": OBJECTIVES["margin"]}[kind]
    with pytest.raises(UsageError, match="Give one such as"):
        made(**arguments)
