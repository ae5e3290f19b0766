"""The prompts of the train split that a strategy can draw beyond those that the run was asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.scripted import Scripted
from support.tiny import random_batch, tiny

from circuitkit import CircuitModel, Discoverer, PromptBatch
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.strategies import ACDC, EdgePruning, Ensemble, Matryoshka, Stable
from circuitkit.strategies.discovery import Discovery
from circuitkit.tasks import IOI, PromptFile
from circuitkit.tasks.base import Split, Task

pytestmark = pytest.mark.filterwarnings("ignore:The model gives the answer")


class Numbers(Task):
    """Prompt n is the digits of n; from a given number on, prompts have no answers. Records what it was asked for."""

    def __init__(self, available: int | None = None, without: int = 10_000, makes: int = 300) -> None:
        self.of_split, self.without, self.makes = available, without, makes
        self.asked: list[tuple[str, int, int]] = []

    def available(self, tokenizer: Any, split: Split, seed: int) -> int | None:
        return self.of_split

    def prompts(self, tokenizer: Any, split: Split, examples: int, seed: int) -> PromptBatch:
        self.asked.append((split, examples, seed))
        numbers = range(min(examples, self.makes))
        digits = [[n // 100, n // 10 % 10, n % 10, 11] for n in numbers]
        answers = [[] if n >= self.without else [12] for n in numbers]
        wrong = [[] if n >= self.without else [13] for n in numbers]
        return PromptBatch.from_ids(digits, [[10, *row[1:]] for row in digits], answers, wrong)


def draw(task: Any, counts: list[int], model: CircuitModel | None = None, **options: Any) -> list[PromptBatch]:
    """Return the run's own prompts, and what a strategy gets for these counts."""
    found: list[PromptBatch] = []

    def act(run: Discovery) -> None:
        (own,) = run.batches
        found.extend([own, *(run.distinct_prompts(count) for count in counts)])

    options = {"examples": 8, "sizes": (), **options}
    run = Discoverer("cpu", callbacks=[], seed=options.pop("seed", 3)).run
    run(model or tiny("gpt2", dtype=torch.float32), task, Scripted(act), **options)
    return found


def rows(batch: PromptBatch) -> list[tuple[int, ...]]:
    """List the clean prompts without padding, with their answers."""
    return [
        (*one[real].tolist(), *answers.flatten().tolist())
        for one, real, answers in zip(batch.clean, batch.mask, batch.answers, strict=True)
    ]


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


def same(one: PromptBatch, other: PromptBatch) -> bool:
    names = ("clean", "corrupted", "mask", "answer_positions", "answers", "wrong_answers")
    return one.templates == other.templates and all(torch.equal(getattr(one, n), getattr(other, n)) for n in names)


@pytest.mark.parametrize("task", [IOI(), IOI(template=0, order="abba")], ids=repr)
def test_a_task_with_more_prompts_makes_them(toy: CircuitModel, task: IOI) -> None:
    own, few, all_of_them, more, again = draw(task, [5, 8, 200, 200], toy)
    assert same(few, own[:5])
    assert same(all_of_them, own)
    assert same(more, again)
    assert len(more) == len(set(rows(more))) == 200
    assert len(more.templates) == 200
    assert more.clean.device == toy.device
    held_out = [task.prompts(toy.tokenizer, split, 200, 3) for split in ("validation", "test")]
    assert not set(rows(more)) & {row for batch in held_out for row in rows(batch)}
    assert rows(more[:8]) == rows(own)
    assert set(rows(more[8:])) <= set(rows(task.prompts(toy.tokenizer, "train", 208, 3)))
    other = draw(task, [200], toy, seed=4)[1]
    assert set(rows(other)) != set(rows(more))


def test_a_prompt_batch_has_no_others() -> None:
    batch = random_batch(lengths=(5, 7, 6, 6))
    own, one, same_number, more = draw(batch, [1, 4, 1000])
    assert same(own, batch)
    assert same(one, batch[:1])
    assert same(same_number, batch)
    assert same(more, batch)


@pytest.mark.parametrize("split", [False, True], ids=["halves", "column"])
def test_a_file_has_as_many_as_its_train_split(toy: CircuitModel, tmp_path: Path, split: bool) -> None:
    names = ["Mary", "John", "James", "Robert", "Michael"]
    pairs = [(one, other) for one in names for other in names if one != other]
    lines = ["clean,corrupted,answer,wrong_answer" + ",split" * split]
    for number, (one, other) in enumerate(pairs):
        clean = f"When {one} and {other} went to the store, {other} gave a ring to"
        corrupted = f"When {one} and {other} went to the store, {one} gave a ring to"
        lines.append(f'"{clean}","{corrupted}"," {one}"," {other}"' + f",{'train' if number < 13 else 'test'}" * split)
    (tmp_path / "prompts.csv").write_text("\n".join(lines) + "\n")
    task = PromptFile(tmp_path / "prompts.csv")
    own, few, more = draw(task, [3, 1000], toy, examples=4, splits=["train"])
    assert len(own) == 4
    assert same(few, own[:3])
    assert len(more) == len(set(rows(more))) == (13 if split else 10)
    assert set(rows(own)) <= set(rows(more))
    assert set(rows(more)) == set(rows(task.prompts(toy.tokenizer, "train", 1000 if split else 10, 3)))


@pytest.mark.parametrize(
    ("available", "makes", "wanted", "asked", "found"),
    [
        (None, 300, 9, 17, 9),  # the run's own eight may be among them
        (None, 300, 250, 258, 250),
        (None, 20, 250, 258, 20),  # a task that does not say how many it has makes what it can
        (40, 300, 250, 40, 40),
        (40, 300, 40, 40, 40),
        (40, 300, 9, 17, 9),
    ],
)
def test_no_more_are_asked_for_than_there_are(
    available: int | None, makes: int, wanted: int, asked: int, found: int
) -> None:
    task = Numbers(available, makes=makes)
    own, more = draw(task, [wanted])
    assert (len(own), len(more)) == (8, found)
    assert task.asked[-1] == ("train", asked, 3)
    assert task.asked.count(("train", asked, 3)) == 1


def test_prompts_are_only_made_when_the_run_has_too_few() -> None:
    task = Numbers()
    draw(task, [1, 5, 8])
    assert {examples for _, examples, _ in task.asked} == {8}


def test_an_objective_without_answers_takes_prompts_without() -> None:
    own, more = draw(Numbers(without=0), [100], objective="kl")
    assert len(more) == 100
    assert not (more.answers >= 0).any()
    assert not (own.answers >= 0).any()


def test_an_objective_with_answers_refuses_further_prompts_without() -> None:
    """The run's own prompts have them, and so the run begins."""
    own, more = draw(Numbers(without=20), [20])
    assert (len(own), len(more)) == (8, 20)
    with pytest.raises(UsageError, match="LogitDifference needs answers, and prompt 20 has none"):
        draw(Numbers(without=20), [21])


class Longer(Numbers):
    """The first eight prompts have four tokens, others five."""

    def prompts(self, tokenizer: Any, split: Split, examples: int, seed: int) -> PromptBatch:
        batch = super().prompts(tokenizer, split, examples, seed)
        if len(batch) <= 8:
            return batch
        shorter = torch.arange(len(batch), dtype=torch.int64) < 8
        longer = [torch.cat([part, part[:, -1:]], 1) for part in (batch.clean, batch.corrupted)]
        rows = [
            [row[:4] if short else row for row, short in zip(part.tolist(), shorter, strict=True)] for part in longer
        ]
        return PromptBatch.from_ids(*rows, [[12]] * len(batch), [[13]] * len(batch))


class Work:
    """Counts reports of progress."""

    def __init__(self) -> None:
        self.seen = 0

    def on_progress(self, *_: Any) -> None:
        self.seen += 1


PRUNING = EdgePruning(0.5, batch_size=4, trainer={"max_steps": 4})


@pytest.mark.parametrize(
    "strategy",
    [
        PRUNING,
        Matryoshka(batch_size=4, trainer={"max_steps": 4}),
        ACDC(0.1, prompts_per_layer=8),
        ACDC(0.1, start="eap", start_size=0.5, prompts_per_layer=8),
        ACDC(0.1, start=PRUNING),
        Ensemble(["eap", PRUNING]),
        Stable(PRUNING, samples=5, vary=["prompts", "seed"]),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_prompts_of_other_lengths_are_refused_before_any_work_by_means_per_position(strategy: Any) -> None:
    model, work = tiny("gpt2", dtype=torch.float32), Work()
    for run in (Discoverer("cpu", callbacks=[work]).run, Discoverer("cpu", callbacks=[work]).dry_run):
        with pytest.raises(UsageError, match="have 4 tokens, but another prompt has 5"):
            run(model, Longer(), strategy, examples=8, ablation="mean", sizes=())
    assert not work.seen


def test_one_mean_over_all_positions_takes_prompts_of_any_length() -> None:
    pooled = {"class_path": "mean", "init_args": {"positions": "pooled"}}
    run = Discoverer("cpu", callbacks=[]).run
    found = run(tiny("gpt2", dtype=torch.float32), Longer(), PRUNING, examples=8, ablation=pooled, sizes=())
    assert found.metrics["train_prompts"] == 16


def test_a_search_on_parts_of_the_prompts_draws_no_others() -> None:
    strategy = Stable(PRUNING, samples=5)
    found = Discoverer("cpu", callbacks=[]).run(
        tiny("gpt2", dtype=torch.float32), Longer(), strategy, examples=8, ablation="mean", sizes=()
    )
    assert found.metrics["samples"] == 5


def test_a_split_of_other_lengths_is_refused_before_any_work_by_means_per_position() -> None:
    work, model = Work(), tiny("gpt2", dtype=torch.float32)
    options: dict[str, Any] = {"ablation": "mean", "examples": (8, 8, 12), "sizes": (0.5,)}
    with pytest.raises(UsageError, match="have 4 tokens, but another prompt has 5"):
        Discoverer("cpu", callbacks=[work]).run(model, Longer(), "eap", **options)
    assert not work.seen
    assert Discoverer("cpu", callbacks=[work]).run(model, Longer(), "eap", splits=["train"], **options).evaluations


def test_prompts_that_the_model_cannot_read_are_refused() -> None:
    class Later(Numbers):
        def prompts(self, tokenizer: Any, split: Split, examples: int, seed: int) -> PromptBatch:
            batch = super().prompts(tokenizer, split, examples, seed)
            if examples > 8:
                batch.clean[-1, 0] = 1000
            return batch

    with pytest.raises(CircuitKitError, match="1000"):
        draw(Later(), [9])
