"""Batches of prompts."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import tiny

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError, UsageError


def test_left_padding_positions_and_the_first_difference():
    batch = PromptBatch.from_ids([[5, 6, 7], [8, 9]], [[5, 1, 7], [8, 9]], [1, 2], [3, 4], pad_id=9)
    assert batch.clean.tolist() == [[5, 6, 7], [9, 8, 9]]
    assert batch.mask.tolist() == [[True] * 3, [False, True, True]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert batch.answer_positions.tolist() == [[2], [2]]
    assert batch.first_difference.tolist() == [1, 3]
    assert batch.padded
    assert len(batch) == 2
    assert batch.length == 3


def test_answer_positions_count_from_the_start_or_end_of_a_prompt():
    batch = PromptBatch.from_ids(
        [[5, 6, 7], [8, 9]], [[5, 1, 7], [8, 9]], [[[1], [2]], [[3]]], answer_positions=[[0, -1], [0]]
    )
    assert batch.answer_positions.tolist() == [[0, 2], [1, -1]]
    assert batch.answers.tolist() == [[[1], [2]], [[3], [-1]]]
    assert batch.wrong_answers.shape[-1] == 0


def test_splitting_and_tensors():
    ids = torch.arange(12).reshape(4, 3)
    batch = PromptBatch.from_ids(ids, ids, torch.arange(4), torch.arange(4)[:, None] + 1)
    parts = batch.split(3)
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat([part.clean for part in parts]), ids)
    assert parts[1].wrong_answers.tolist() == [[[4]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "no prompts"),
        (([[1, 2]], [[1]], [3]), "Prompt 0 has 2 clean and 1 corrupted"),
        (([[1], [1, 2]], [[1], [1, 2, 3]], [3, 3]), "Prompt 1 has 2 clean and 3 corrupted"),
        (([[1]], [[1], [2]], [3]), "1 clean and 2 corrupted"),
        (([[]], [[]], [3]), "Prompt 0 is empty"),
        (([[1]], [[1]], [3, 4]), "2 answers for 1 prompts"),
        (([1, 2], [1, 2], [3, 4]), "not rows of token ids"),
    ],
)
def test_malformed_prompts_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        PromptBatch.from_ids(*arguments)


def test_malformed_positions_are_refused():
    with pytest.raises(UsageError, match="Prompt 1 has 2 tokens and no position 2"):
        PromptBatch.from_ids([[1, 2, 3], [1, 2]], [[1, 2, 3], [1, 2]], [1, 2], answer_positions=[2, 2])
    with pytest.raises(UsageError, match="answers for 1 positions, but 2 answer positions"):
        PromptBatch.from_ids([[1, 2]], [[1, 2]], [1], answer_positions=[[0, 1]])


def of_answers(answers: Any, wrong_answers: Any = None, positions: Any = None) -> PromptBatch:
    """Two prompts of three tokens."""
    return PromptBatch.from_ids(
        [[1, 2, 3], [4, 5, 6]], [[1, 2, 7], [4, 5, 8]], answers, wrong_answers, answer_positions=positions
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([[3, 3, 4], [5, 5]], [[[3, 4]], [[5, -1]]]),
        ([[4, 3, 4], [5]], [[[4, 3]], [[5, -1]]]),
        ([[-1, 3, -1, 3], [5]], [[[3]], [[5]]]),
        ([{3}, (5,)], [[[3]], [[5]]]),
        (torch.tensor([[3, 3], [5, -1]]), [[[3]], [[5]]]),
        ([[[3, 3], [3]], [[5], [5, 6]]], [[[3, -1], [3, -1]], [[5, -1], [5, 6]]]),
    ],
)
def test_answers_are_sets(given: Any, kept: list[Any]) -> None:
    assert of_answers(given, positions=[[1, 2]] * 2 if len(kept[0]) == 2 else None).answers.tolist() == kept


ARRAYS = {
    "NumPy": np.array,
    "NumPy int32": lambda ids: np.array(ids, dtype=np.int32),
    "NumPy unsigned": lambda ids: np.array(ids, dtype=np.uint16),
    "lists of NumPy integers": lambda ids: (
        [list(np.array(row)) for row in ids] if isinstance(ids[0], list) else list(np.array(ids))
    ),
    "lists of arrays": lambda ids: [np.array(row) for row in ids],
    "lists of tensors": lambda ids: [torch.tensor(row) for row in ids],
    "an array of objects": lambda ids: np.array([*map(np.array, ids), None], dtype=object)[:-1],
    "tuples": lambda ids: tuple(tuple(row) if isinstance(row, list) else row for row in ids),
    "int32 tensor": lambda ids: torch.tensor(ids, dtype=torch.int32),
    "a pandas column": lambda ids: pytest.importorskip("pandas").Series(ids),
    "a pandas column that may have gaps": lambda ids: pytest.importorskip("pandas").Series(
        ids, dtype="Int64" if isinstance(ids[0], int) else None
    ),
    "a pandas index": lambda ids: pytest.importorskip("pandas").Series(ids, index=["x", "y"][: len(ids)]),
    "pandas columns": lambda ids: (
        pytest.importorskip("pandas").DataFrame(ids) if isinstance(ids[0], list) else np.array(ids)
    ),
}  # fmt: skip


@pytest.mark.parametrize("made", ARRAYS.values(), ids=ARRAYS)
def test_ids_may_come_as_arrays_and_columns(made: Any) -> None:
    clean, corrupted, answers, wrong, positions = [[1, 2], [4, 5]], [[1, 3], [4, 6]], [7, 8], [[9, 1], [9, 2]], [1, 0]
    expected = PromptBatch.from_ids(clean, corrupted, answers, wrong, answer_positions=positions)
    found = PromptBatch.from_ids(*map(made, (clean, corrupted, answers, wrong)), answer_positions=made(positions))
    for name in ("clean", "corrupted", "mask", "answer_positions", "answers", "wrong_answers"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype


GOOD = [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answers": [[3, 3.5], [4]]}, "Prompt 0 has 3.5 among its answers"),
        ({"answers": [3, 4.0]}, "Prompt 1 has 4.0 among its answers"),
        ({"answers": [True, 4]}, "Prompt 0 has True among its answers"),
        ({"answers": [3, float("nan")]}, "Prompt 1 has nan among its answers"),
        ({"answers": [3, -2]}, "Prompt 1 has -2 among its answers"),
        ({"answers": [3, -100]}, "Prompt 1 has -100 among its answers"),
        ({"answers": [3, "4"]}, "Prompt 1 has '4' among its answers"),
        ({"answers": [3, None]}, "Prompt 1 has None among its answers"),
        ({"answers": [3, [[[4]]]]}, r"Prompt 1 has \[4\] among its answers"),
        ({"answers": [3, [4, [5]]]}, "Prompt 1 has 4 among its answers.*sets"),
        ({"answers": [3, 2**63]}, f"Prompt 1 has {2**63} among its answers"),
        ({"answers": torch.tensor([3.0, 4.0])}, "Prompt 0 has 3.0 among its answers"),
        ({"answers": np.array([3.0, 4.0])}, "Prompt 0 has 3.0 among its answers"),
        ({"answers": 3}, "The answers are 3"),
        ({"answers": "34"}, "The answers are '34'"),
        ({"answers": {"a": 3}}, "The answers are {'a': 3}"),
        ({"wrong_answers": [6, [7, -3]]}, "Prompt 1 has -3 among its wrong_answers"),
        ({"wrong_answers": [6, [4, 7]]}, "Prompt 1 has 4 both as an answer and as a wrong answer"),
        (
            {"answers": [[[5], [6]]] * 2, "wrong_answers": [[[6], [5]], [[7], [6]]], "answer_positions": [[0, 1]] * 2},
            "Prompt 1 has 6 both as an answer and as a wrong answer",
        ),
        (
            {"answers": [[[5], [6]]] * 2, "answer_positions": [[0, 1], [1]]},
            "Prompt 1 has answers for 2 positions, but 1 answer position",
        ),
        ({"clean": [[1, 2], [3, -1]]}, "Prompt 1 has -1 among its clean token ids"),
        ({"corrupted": [[1, 2], [3, 0.5]]}, "Prompt 1 has 0.5 among its corrupted token ids"),
        ({"clean": np.array([[1.0, 2.0], [3.0, 4.0]])}, "Prompt 0 has 1.0 among its clean token ids"),
        ({"clean": [[1, 2], [3, 2**64]]}, f"Prompt 1 has {2**64} among"),
        ({"clean": [[1, 2], [3, [4]]]}, r"Prompt 1 has \[4\] among"),
        ({"clean": [[1, 2], "34"]}, "The clean prompts are not rows of token ids"),
        ({"clean": {"input_ids": [[1, 2], [3, 4]]}}, "The clean prompts are not rows of token ids"),
        ({"clean": None}, "The clean prompts are not rows of token ids"),
        ({"answer_positions": [1, 0.5]}, "Prompt 1 has 0.5 among its answer_positions"),
        ({"answer_positions": [1, True]}, "Prompt 1 has True among its answer_positions"),
        ({"answer_positions": 1}, "The answer_positions are 1"),
        ({"pad_id": -1}, "pad_id=-1"),
        ({"pad_id": 0.5}, "pad_id=0.5"),
        ({"pad_id": "<pad>"}, "pad_id='<pad>'"),
    ],
)  # fmt: skip
def test_what_is_no_token_id_is_refused_by_row(changed: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"clean": GOOD, "corrupted": [[1, 3], [3, 5]], "answers": [3, 4], "wrong_answers": [7, 8]}
    if "answer_positions" in changed and "wrong_answers" not in changed:
        given["wrong_answers"] = None
    with pytest.raises(UsageError, match=said) as caught:
        PromptBatch.from_ids(**given | changed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_missing_pad_id_is_no_padding_token_at_all() -> None:
    """A tokenizer without one has None."""
    assert PromptBatch.from_ids([[1], [2, 3]], [[1], [2, 3]], [4, 5], pad_id=None).clean.tolist() == [[0, 1], [2, 3]]


def test_pairs_that_do_not_differ_and_copies_are_noted_with_their_number() -> None:
    clean, corrupted = [[1, 2]] * 3 + [[3, 4], [5, 6]], [[1, 3]] * 3 + [[3, 4], [5, 6]]
    batch = PromptBatch.from_ids(clean, corrupted, [7, 7, 7, 8, 9])
    copies, identical = batch.notes
    assert copies == "Prompts that are copies of others: 2 of 5; each counts."
    assert "Pairs whose clean and corrupted prompts are the same up to the answer: 2 of 5" in identical
    assert all(part.notes == batch.notes for part in batch.split(2))
    assert batch.to("cpu").notes == batch.notes
    assert not PromptBatch.from_ids([[1, 2]] * 2, [[1, 3]] * 2, [7, 8]).notes, "they differ in their answers"


def test_pairs_that_differ_only_after_their_answers_do_not_differ() -> None:
    def batch(*positions: list[int]) -> PromptBatch:
        rows = [[1, 2, 3], [2, 3], [1, 2, 3]], [[1, 2, 4], [2, 4], [1, 2, 3]]
        return PromptBatch.from_ids(*rows, [[[5]] * len(row) for row in positions], answer_positions=positions)

    assert batch([1], [1], [1]).unchanged.tolist() == [True, False, True]
    assert batch([0], [0], [2]).unchanged.tolist() == [True, True, True]
    assert batch([0, 2], [0], [2]).unchanged.tolist() == [False, True, True]


def test_prompts_may_be_chosen_by_number() -> None:
    batch = of_answers([5, 6])[torch.tensor([1, 0, 1])]
    assert batch.clean.tolist() == [[4, 5, 6], [1, 2, 3], [4, 5, 6]]
    assert batch.answers.tolist() == [[[6]], [[5]], [[6]]]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (slice(1, None), ("b", "a")),
        (slice(None, None, 2), ("a", "a")),
        (torch.tensor([2, 1, 1]), ("a", "b", "b")),
        (torch.tensor([False, True, False]), ("b",)),
        (slice(3, None), ()),
    ],
)
def test_templates_follow_their_prompts(rows: slice | torch.Tensor, kept: tuple[str, ...]) -> None:
    ids = [[1, 2], [3, 4], [5, 6]]
    batch = PromptBatch.from_ids(ids, ids, [7, 8, 9], templates=["a", "b", "a"])
    assert batch.templates == batch.to("cpu").templates == ("a", "b", "a")
    assert batch[rows].templates == kept
    assert len(batch[rows]) == len(kept)
    assert [part.templates for part in batch.split(2)] == [("a", "b"), ("a",)]
    plain = PromptBatch.from_ids(ids, ids, [7, 8, 9])
    assert plain.templates == plain[rows].templates == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a"], "1 templates for 2 prompts"),
        ("ab", "templates are 'ab'.*one text per prompt"),
        (["a", 3], r"templates are \['a', 3\]"),
        (3, "templates are 3"),
    ],
)
def test_templates_that_are_no_labels_are_refused(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        PromptBatch.from_ids(GOOD, GOOD, [7, 8], templates=given)


def test_the_repr_is_short() -> None:
    assert repr(of_answers([5, 6])) == "PromptBatch(2 prompts, 3 tokens)"
    assert repr(PromptBatch.from_ids([[1], [2, 3]], [[4], [5, 6]], [7, 8])) == "PromptBatch(2 prompts, up to 2 tokens)"


def test_joined_batches_are_the_batch_of_all_their_prompts():
    rows = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 10], [11, 12, 13, 14]]
    corrupted = [[21, *row[1:]] for row in rows]
    answers = [[[30], [31, 32]], [[33]], [[34, 35, 36]], [[37]]]
    wrong = [[[40], []], [[41, 42]], [[43]], [[]]]
    positions = [[0, -1], [2], [1], [-1]]

    def make(part):
        labels = ["a", "b", "a", "c"][part]
        given = (rows, corrupted, answers, wrong)
        one, other, right, others = (values[part] for values in given)
        return PromptBatch.from_ids(one, other, right, others, answer_positions=positions[part], templates=labels)

    whole = make(slice(None))
    parts = [make(slice(0, 1)), make(slice(1, 3)), make(slice(3, 4))]
    joined = PromptBatch.join(parts)
    for name in ("clean", "corrupted", "mask", "answer_positions", "answers", "wrong_answers"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert joined.templates == whole.templates
    assert joined.clean_rows() == [tuple(row) for row in rows]
    assert PromptBatch.join([parts[0], replace(parts[1], templates=())]).templates == ()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more"), "allocate 2.00 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "CUDA error: out of memory"),
    ],
)
def test_a_device_that_is_full_is_no_unknown_device(
    error: RuntimeError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice to choose an existing device would mislead."""

    def run_out(*_: Any) -> None:
        raise error

    batch, model = PromptBatch.from_ids([[5, 6]], [[5, 1]], [1]), tiny("gpt2")
    monkeypatch.setattr(torch.Tensor, "to", run_out)
    monkeypatch.setattr(model.model, "to", run_out)
    for moved in (batch, model):
        with pytest.raises(CircuitKitError, match=f"{re.escape(reason)}. Free memory there") as caught:
            moved.to("cuda")
        assert not isinstance(caught.value, UsageError)
        assert caught.value.__cause__ is error
