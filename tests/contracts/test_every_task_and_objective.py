"""What every task and every objective must do: the registered ones, and those from outside the package."""

import pytest
import torch
from support.outside import outside
from support.tiny import random_batch, tiny
from support.word_tokenizers import byte_level, random_reader

from circuitkit import CircuitModel, discover
from circuitkit.config import registry
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
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def models() -> dict[str, CircuitModel]:
    """The model of each task."""
    toy, random = CircuitModel.from_pretrained("toy"), random_reader(byte_level())
    own = {name: CircuitModel.from_pretrained(model) for name, model in FOR_THEIR_OWN_MODEL.items()}
    return {name: own.get(name, toy if name in OF_THE_TOY else random) for name in TASKS}


def pairs(batch):
    """The pairs of a batch, without padding."""
    rows = zip(batch.clean, batch.corrupted, batch.mask, strict=True)
    return [(tuple(one[real].tolist()), tuple(other[real].tolist())) for one, other, real in rows]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_makes_disjoint_splits_that_the_seed_decides(name, models):
    task, tokenizer = TASKS[name](), models[name].tokenizer
    made = {split: task.prompts(tokenizer, split, 12, seed=3) for split in SPLITS}
    for split, batch in made.items():
        assert 0 < len(batch) <= 12
        assert pairs(batch) == pairs(TASKS[name]().prompts(tokenizer, split, 12, seed=3))
        assert all(len(one) == len(other) and one != other for one, other in pairs(batch))
        assert (batch.answer_positions >= 0).any(-1).all()
        if name != "tracr_frac_prevs":  # whose answers are numbers
            assert torch.equal((batch.answers >= 0).any(-1), batch.answer_positions >= 0)
        assert not (batch.clean == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)).any()
        available = task.available(tokenizer, split, seed=3)
        assert available is None or (type(available) is int and len(batch) == min(12, available))
        assert len({one for one, _ in pairs(batch)}) == len(batch)
    seen = [{prompt for pair in pairs(batch) for prompt in pair} for batch in made.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert pairs(made["train"]) != pairs(task.prompts(tokenizer, "train", 12, seed=4))
    with pytest.raises(UsageError, match="no tokenizer"):
        task.prompts(None, "train", 2, 0)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_can_be_previewed_and_run(name, models):
    task, model = TASKS[name](), models[name]
    assert "answer after token" in task.preview(model, 1)
    strategy = "eap_ig" if name == "tracr_frac_prevs" else "eap"  # its objective has no gradient at the full model
    assert discover(model, task, strategy, examples=4).evaluations


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gives_one_value_per_prompt(name):
    """Also with several answers, hypotheses before the prompts, and prompts with fewer answers."""
    model, batch = tiny("gpt2"), random_batch(positions=2, answers=3)
    batch.answers[0, :, 1:], batch.wrong_answers[1, :, 2] = -1, -1
    objective = OBJECTIVES[name]()
    objective.check(batch)
    stream = model.final_stream(batch)
    reference = objective.reference(model.logits(stream))
    values = objective.values(model.logits(stream), batch, reference)
    assert values.shape == (len(batch),)
    changed = (stream + torch.randn(4, *stream.shape, dtype=stream.dtype)).requires_grad_()
    several = objective.values(model.logits(changed), batch, reference)
    assert several.shape == (4, len(batch))
    (gradient,) = torch.autograd.grad(several.sum(), changed)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    alone = [objective.values(model.logits(one), batch, reference) for one in changed]
    assert torch.allclose(torch.stack(alone), several, rtol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_lower_for_better_answers(name):
    model, batch, objective = tiny("gpt2"), random_batch(), OBJECTIVES[name]()
    stream = model.final_stream(batch)
    logits = model.logits(stream)
    reference = objective.reference(logits)
    towards = model.family.unembedding()[0][batch.answers[..., 0]]
    if objective.needs_wrong_answers:
        towards = towards - model.family.unembedding()[0][batch.wrong_answers[..., 0]]
    better, worse = (objective.values(model.logits(stream + sign * towards), batch, reference) for sign in (1, -1))
    if objective.zero_at_full_model:
        assert objective.values(logits, batch, reference).abs().max() < 1e-12
        assert (better > 0).all()
    else:
        assert (better <= worse).all()
        assert (better < worse).any()


@pytest.mark.parametrize(("kind", "arguments"), [("my_task", {"place": "2 b"}), ("my_objective", {"margin": 0})])
def test_examples_refuse_wrong_arguments(kind, arguments):
    made = {"my_task": TASKS["repeated_names"], "my_objective": OBJECTIVES["margin"]}[kind]
    with pytest.raises(UsageError, match="Give one such as"):
        made(**arguments)
