"""Prompts from files: how they are read and split, and the error message of each mistake."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.prompt_rows import row
from support.word_tokenizers import byte_level
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuitkit.cli.main import main
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.base import Split
from circuitkit.tasks.file_rows import COLUMNS
from circuitkit.tasks.ioi import NAMES
from circuitkit.tasks.prompt_file import PromptFile

MARY, JOHN = " Mary", " John"


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return path


def ids(tokenizer: PreTrainedTokenizerBase, *words: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(word) for word in words]


@pytest.mark.parametrize(("write", "name"), [(as_csv, "my prompts.csv"), (as_jsonl, "prompts.JSONL")])
def test_rows_become_pairs(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, write: Any, name: str) -> None:
    batch = PromptFile(write(tmp_path / name, [row()])).prompts(tokenizer, "train", 10, seed=0)
    assert batch.clean.tolist() == [tokenizer.encode(row()["clean"])]
    assert batch.corrupted.tolist() == [tokenizer.encode(row()["corrupted"])]
    assert batch.answers.tolist() == [[ids(tokenizer, MARY)]]
    assert batch.wrong_answers.tolist() == [[ids(tokenizer, " James")]]
    assert batch.answer_positions.tolist() == [[14]]


def test_answers_may_be_sets(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "p.jsonl", [row(answer=[MARY, " Paul"], wrong_answer=[JOHN, " James", " Mark"])])
    batch = PromptFile(path).prompts(tokenizer, "train", 1, seed=0)
    assert batch.answers.tolist() == [[ids(tokenizer, MARY, " Paul")]]
    assert batch.wrong_answers.tolist() == [[ids(tokenizer, JOHN, " James", " Mark")]]


def test_sets_in_a_cell_of_csv_are_json(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = as_csv(tmp_path / "p.csv", [row(answer='[" Mary", " Paul"]', wrong_answer='["John"," James"]')])
    batch = PromptFile(path).prompts(tokenizer, "train", 1, seed=0)
    assert batch.answers.tolist() == [[ids(tokenizer, MARY, " Paul")]]
    assert batch.wrong_answers.tolist() == [[ids(tokenizer, JOHN, " James")]]


LETTERS = ["A", "B", "C"]
QUESTION = "Question: A box is brown. What color is the box?\nA. {}\nB. {}\nC. {}\nAnswer:"
CLEAN, CORRUPTED = QUESTION.format("gray", "brown", "pink"), QUESTION.format("brown", "gray", "pink")


@pytest.mark.parametrize(
    ("write", "name", "cells"),
    [
        (as_csv, "p.csv", {"choices": json.dumps(LETTERS), "label": "B"}),
        (as_csv, "p.csv", {"choices": json.dumps(LETTERS), "answerKey": 1}),
        (as_csv, "p.csv", {"choices": json.dumps({"label": LETTERS, "text": list("xyz")}), "answerKey": "1"}),
        (as_jsonl, "p.jsonl", {"choices": LETTERS, "label": "B"}),
        (as_jsonl, "p.jsonl", {"choices": {"label": LETTERS, "text": list("xyz")}, "answerKey": 1}),
    ],
)
def test_multiple_choice_as_mib_has_it(tmp_path: Path, write: Any, name: str, cells: dict[str, Any]) -> None:
    tokenizer = byte_level()
    batch = PromptFile(write(tmp_path / name, [{"clean": CLEAN, "corrupted": CORRUPTED, **cells}])).prompts(
        tokenizer, "train", 1, seed=0
    )
    assert [tokenizer.decode([token]) for token in batch.answers.flatten()] == [" B"]
    assert [tokenizer.decode([token]) for token in batch.wrong_answers.flatten()] == [" A", " C"]


@pytest.mark.parametrize("end", [" ", "\n", "("])
def test_a_choice_has_no_space_where_the_prompt_ends_so(tmp_path: Path, end: str) -> None:
    pair = {"clean": CLEAN + end, "corrupted": CORRUPTED + end, "choices": json.dumps(LETTERS), "label": "C"}
    tokenizer = byte_level()
    batch = PromptFile(as_csv(tmp_path / "p.csv", [pair])).prompts(tokenizer, "train", 1, seed=0)
    assert [tokenizer.decode([token]) for token in batch.answers.flatten()] == ["C"]


@pytest.mark.parametrize(
    ("write", "name", "label"), [(as_csv, "p.csv", 1), (as_jsonl, "p.jsonl", 1), (as_jsonl, "p.jsonl", "1")]
)
def test_a_label_that_is_a_number_comes_before_the_number_of_a_choice(
    tmp_path: Path, write: Any, name: str, label: Any
) -> None:
    pair = {"clean": CLEAN, "corrupted": CORRUPTED, "label": label}
    path = write(tmp_path / name, [{**pair, "choices": json.dumps(["1", "2", "3"])}])
    tokenizer = byte_level(numbers=[" 1", " 2", " 3"])
    batch = PromptFile(path).prompts(tokenizer, "train", 1, seed=0)
    assert [tokenizer.decode([token]) for token in batch.answers.flatten()] == [" 1"]


def test_a_choice_whose_label_is_a_number_is_not_counted(tmp_path: Path) -> None:
    pair = {"clean": CLEAN, "corrupted": CORRUPTED, "choices": json.dumps(["1", "2"]), "label": "1"}
    task = PromptFile(as_csv(tmp_path / "p.csv", [pair]))
    with pytest.raises(UsageError, match="the answer ' 1', which is not one token"):
        task.prompts(byte_level(digits=True), "train", 1, seed=0)  # " 1" is two tokens there
    batch = task.prompts(byte_level(numbers=[" 1", " 2"]), "train", 1, seed=0)
    assert batch.answers.shape == (1, 1, 1)


def test_a_missing_leading_space_is_added_to_all_answers_or_none(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The name "Mary" is a token with and without its space, and must be read as "John" is."""
    words = {word: number for number, word in enumerate(["<unk>", "<pad>", "x", "Mary", " Mary", " John", "John"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    both = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    pair = {"clean": "x x", "corrupted": "x Mary", "answer": "Mary", "wrong_answer": "John"}
    batch = PromptFile(as_csv(tmp_path / "a.csv", [pair])).prompts(both, "train", 1, seed=0)
    assert batch.answers.tolist() == [[ids(both, "Mary")]]  # as they stand

    del words["John"]
    backend.model = models.WordLevel(words, unk_token="<unk>")
    one = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    batch = PromptFile(as_csv(tmp_path / "a.csv", [pair])).prompts(one, "train", 1, seed=0)
    assert batch.answers.tolist() == [[ids(one, " Mary")]]
    assert batch.wrong_answers.tolist() == [[ids(one, " John")]]


@pytest.mark.parametrize(("write", "name"), [(as_csv, "p.csv"), (as_jsonl, "p.jsonl")])
def test_ids_of_eap_ig(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, write: Any, name: str) -> None:
    shared = {key: row()[key] for key in ("clean", "corrupted")}
    rows = [{"": 470, **shared, "corrupted_hard": "x", "correct_idx": [7, 8], "incorrect_idx": 9}]
    batch = PromptFile(write(tmp_path / name, rows)).prompts(tokenizer, "train", 1, seed=0)
    assert batch.answers.tolist() == [[[7, 8]]]
    assert batch.wrong_answers.tolist() == [[[9]]]


def test_label_of_eap_ig_is_a_year(tmp_path: Path) -> None:
    words = ["<unk>", "<pad>", "x", *(f"{year:02d}" for year in range(100))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w\w|\w"), behavior="isolated")
    years = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    path = as_csv(tmp_path / "p.csv", [{"clean": "1742", "corrupted": "1701", "label": 42}])
    batch = PromptFile(path).prompts(years, "train", 1, seed=0)
    assert batch.answers[0, 0].tolist() == ids(years, *(str(year) for year in range(43, 100)))
    assert batch.wrong_answers[0, 0].tolist() == ids(years, *(f"{year:02d}" for year in range(43)))


def test_a_label_needs_two_digits_in_one_token(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = as_csv(tmp_path / "p.csv", [{"clean": "Then", "corrupted": "Then", "label": 42}])
    with pytest.raises(UsageError, match="'00' are not one token"):
        PromptFile(path).prompts(tokenizer, "train", 1, seed=0)


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (4, (2, 1, 1)), (8, (4, 2, 2))]
)
def test_rows_are_split_into_half_a_quarter_and_a_quarter(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, rows: int, sizes: tuple[int, int, int]
) -> None:
    task = PromptFile(as_csv(tmp_path / "p.csv", [row(number) for number in range(rows)]))
    seen: list[tuple[int, ...]] = []
    for split, size in zip(get_args(Split), sizes, strict=True):
        if size == 0:
            with pytest.raises(UsageError, match=rf"no rows for the split '{split}' \(it has {rows} in all\)"):
                task.prompts(tokenizer, split, 100, seed=0)
        else:
            found = [tuple(prompt) for prompt in task.prompts(tokenizer, split, 100, seed=0).clean.tolist()]
            assert len(found) == size
            seen += found
    assert len(set(seen)) == rows


def test_the_seed_shuffles_and_repeats(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    task = PromptFile(as_csv(tmp_path / "p.csv", [row(number) for number in range(12)]))
    one, same, other = (task.prompts(tokenizer, "train", 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one.clean, same.clean)
    assert not torch.equal(one.clean, other.clean)
    assert len(one) == 4


def test_rows_with_one_clean_prompt_stay_together(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = [row(number, wrong_answer=wrong) for number in range(4) for wrong in (JOHN, " Mark", " Paul")]
    task = PromptFile(as_csv(tmp_path / "p.csv", rows))
    found = [
        {tuple(prompt) for prompt in task.prompts(tokenizer, split, 99, seed=0).clean.tolist()}
        for split in get_args(Split)
    ]
    assert [len(prompts) for prompts in found] == [2, 1, 1]
    assert len(set.union(*found)) == 4


def test_the_column_split_is_kept(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = [row(0, split="test"), row(1, split="train"), row(2, split="test")]
    task = PromptFile(as_csv(tmp_path / "p.csv", rows))
    assert len(task.prompts(tokenizer, "train", 9, seed=0)) == 1
    assert len(task.prompts(tokenizer, "test", 9, seed=0)) == 2
    with pytest.raises(UsageError, match=r"'validation'.*column split says validation"):
        task.prompts(tokenizer, "validation", 9, seed=0)


def test_with_the_column_split_seeds_share_prompts_in_the_order_of_the_file(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [row(number, split=("test", "train")[number % 2]) for number in range(12)]
    task = PromptFile(as_csv(tmp_path / "p.csv", rows))
    whole, other = (task.prompts(tokenizer, "test", 6, seed) for seed in (0, 1))
    assert torch.equal(whole.clean, other.clean)
    parts = [task.prompts(tokenizer, "test", 3, seed).clean.tolist() for seed in range(4)]
    assert len(set(map(str, parts))) > 1  # which of them, the seed decides
    places = [[whole.clean.tolist().index(prompt) for prompt in part] for part in parts]
    assert all(found == sorted(found) for found in places)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answer": " Gertrude"}, r"Row 2 \(line 3\) of .*' Gertrude'.* not one token"),
        ({"answer": " Mary Mark"}, "' Mary Mark'"),
        (
            {"corrupted": "Then, Mary went"},
            r"Row 2 \(line 3\) of .* has 15 clean and 4 corrupted tokens: .*'Then, Mary went'",
        ),
    ],
)
def test_errors_of_the_tokenizer_name_the_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    path = tmp_path / "p.csv"
    task = PromptFile(as_csv(path, [row(0, split="train"), row(1, split="train", **changed)]))
    with pytest.raises(UsageError, match=said) as caught:
        task.prompts(tokenizer, "train", 9, seed=0)
    assert "\n" not in str(caught.value)
    PromptFile(as_csv(path, [row(0)])).prompts(tokenizer, "train", 9, seed=0)  # the row removed, as advised


def test_ids_of_another_tokenizer_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    shared = {key: row()[key] for key in ("clean", "corrupted")}
    path = as_csv(tmp_path / "p.csv", [{**shared, "correct_idx": 50_000, "incorrect_idx": 3}])
    with pytest.raises(UsageError, match=rf"token id 50000, and this tokenizer has {len(tokenizer)} tokens"):
        PromptFile(path).prompts(tokenizer, "train", 1, seed=0)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PromptFile is made of text"):
        PromptFile(as_csv(tmp_path / "p.csv", [row()])).prompts(None, "train", 1, seed=0)


def csv_text(*rows: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


PAIR = {"clean": "x", "corrupted": "y"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "", r"ends in '\.txt'.*\.csv, \.jsonl or \.json"),
        ("p", "", "ends in ''"),
        ("p.csv", "", "has no rows.*clean, corrupted and one of"),
        ("p.csv", "clean,corrupted\n", "has no rows"),
        ("p.jsonl", "\n\n", "has no rows"),
        ("p.csv", csv_text({"clean": "x", "dirty": "y"}), "columns 'clean', 'dirty'.*needs clean, corrupted and one"),
        ("p.csv", csv_text({**PAIR, "answer": "x"}), "columns 'clean', 'corrupted', 'answer'"),
        ("p.csv", csv_text({**PAIR, "correct_idx": 3}), "call that column label"),
        ("p.csv", csv_text({**PAIR, "correct_idx": "x", "incorrect_idx": 3}), "'x' as 'correct_idx'.*token id"),
        ("p.csv", csv_text({**PAIR, "correct_idx": "3.0", "incorrect_idx": 3}), "'3.0' as 'correct_idx'"),
        ("p.csv", csv_text({**PAIR, "correct_idx": "[]", "incorrect_idx": 3}), r"'\[\]' as 'correct_idx'"),
        ("p.csv", csv_text({**PAIR, "choices": '["A", "B"]', "label": "C"}), "'C' as the right choice.*from 0 to 1"),
        ("p.csv", csv_text({**PAIR, "choices": '["A", "B"]', "label": "2"}), "'2' as the right choice"),
        ("p.csv", csv_text({**PAIR, "choices": '["A", "A"]', "label": "A"}), "' A' both as the right choice and as"),
        ("p.csv", csv_text({**PAIR, "choices": '["A"]', "label": "A"}), "as 'choices'.*at least two"),
        ("p.csv", csv_text({**PAIR, "choices": "A B", "label": "A"}), "'A B' as 'choices'.*such as"),
        ("p.jsonl", json.dumps({**PAIR, "choices": {"text": ["x"]}, "label": 0}), "as 'choices'"),
        ("p.jsonl", json.dumps({**PAIR, "choices": ["A", "\ud800"], "label": 0}), "half of a surrogate pair"),
        ("p.csv", csv_text({**PAIR, "answer": '["\\ud800"]', "wrong_answer": "x"}), "half of a surrogate pair"),
        ("p.csv", csv_text({**PAIR, "answer": "[1]", "wrong_answer": "x"}), "as 'answer'"),
        ("p.csv", csv_text({**PAIR, "label": "99"}), "'99' as 'label'.*0 to 98"),
        ("p.csv", csv_text({**PAIR, "label": "x"}), "'x' as 'label'"),
        ("p.csv", csv_text(row(0), row(1, answer="")), r"Row 2 \(line 3\) of .* has no 'answer'"),
        ("p.csv", csv_text(row(0, template="a"), row(1, template="")), r"Row 2 \(line 3\) of .* has no 'template'"),
        ("p.jsonl", json.dumps(row(0, template=["a"])), r"has \['a'\] as 'template'.*a text or a number"),
        ("p.csv", csv_text(row(0, split="dev")), "split 'dev'.*train, validation, test"),
        ("p.csv", csv_text(row(0, split="test"), row(0, split="train")), r"Row 2 .*'train', and in 'test' Row 1"),
        ("p.csv", "clean,corrupted,label\nThen, Mary,y,3\n", "Row 1.*more cells than the header"),
        ("p.jsonl", json.dumps(row()) + "\n{'clean': 3}\n", "Line 2 of .* is not JSON"),
        ("p.jsonl", "[" * 100_000, "Line 1 of .* is not JSON"),
        ("p.jsonl", "\n3\n", "Line 2 of .* is not a JSON object: 3"),
        ("p.jsonl", json.dumps(row(clean=3)), "has 3 as 'clean'"),
        ("p.jsonl", json.dumps(row(answer=3)), "has 3 as 'answer'"),
        ("p.jsonl", json.dumps(row(answer=[" "])), "has .* as 'answer'"),
        ("p.jsonl", json.dumps(row()) + "\n" + json.dumps({"clean": "x"}), r"Row 2 \(line 2\) .* no 'corrupted'"),
        ("p.jsonl", json.dumps({**PAIR, "correct_idx": True, "incorrect_idx": 3}), "True as 'correct_idx'"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_at_construction(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        PromptFile(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.csv' cannot be read: No such file"):
        PromptFile(tmp_path / "missing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        PromptFile(tmp_path / "folder.csv")
    (tmp_path / "latin.csv").write_bytes("clean,corrupted,label\né,è,3\n".encode("latin-1"))
    with pytest.raises(UsageError, match="is not UTF-8"):
        PromptFile(tmp_path / "latin.csv")


@pytest.mark.parametrize("write", [as_csv, as_jsonl])
@pytest.mark.parametrize("splits", [False, True])
def test_available_counts_the_rows_of_a_split(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, write: Any, splits: bool
) -> None:
    rows = [row(number, **({"split": get_args(Split)[number % 3]} if splits else {})) for number in range(10)]
    task = PromptFile(write(tmp_path / "p.jsonl" if write is as_jsonl else tmp_path / "p.csv", [*rows, rows[0]]))
    counts = {split: task.available(tokenizer, split, seed=1) for split in get_args(Split)}
    assert sum(counts.values()) == 10
    for split, count in counts.items():
        assert len(task.prompts(tokenizer, split, 99, seed=1)) == count
        assert task.available(None, split, seed=1) == count
    with pytest.raises(UsageError, match="no split 'dev'"):
        task.available(tokenizer, "dev", seed=1)  # type: ignore[arg-type]


def test_prompts_carry_the_labels_of_the_column_template(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    labels = {row(number)["clean"]: label for number, label in enumerate(["to the store", 3, "b", "3"])}
    rows = [row(number, template=label) for number, label in enumerate(labels.values())]
    for path in (as_csv(tmp_path / "p.csv", rows), as_jsonl(tmp_path / "p.jsonl", rows)):
        batch = PromptFile(path).prompts(tokenizer, "train", 9, seed=0)
        assert len(batch.templates) == len(batch) == 2
        found = [tokenizer.decode(ids[real]) for ids, real in zip(batch.clean, batch.mask, strict=True)]
        assert [str(labels[clean]) for clean in found] == list(batch.templates)
    assert PromptFile(as_csv(tmp_path / "q.csv", [row()])).prompts(tokenizer, "train", 1, seed=0).templates == ()


def test_duplicates_count_once_with_a_note(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    once = [row(number) for number in range(4)]
    task = PromptFile(as_jsonl(tmp_path / "p.jsonl", [*once, row(0), row(0, answer=[MARY]), row(3)]))
    batch = task.prompts(tokenizer, "train", 2, seed=0)
    assert len({tuple(ids) for ids in batch.clean.tolist()}) == len(batch) == 2
    (note,) = batch.notes
    assert note.endswith("p.jsonl': 3; each counts once.")
    plain = PromptFile(as_jsonl(tmp_path / "q.jsonl", once)).prompts(tokenizer, "train", 2, seed=0)
    assert torch.equal(plain.clean, batch.clean)
    assert not plain.notes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row()] * 12, r"no rows for the split 'test' \(it has 12 in all; 11 are duplicates\).*other clean prompts"),
        (
            [row(wrong_answer=f" {name}") for name in NAMES[2:8]],
            r"\(it has 6 in all; all have one clean prompt, and stay in one split\).*other clean prompts",
        ),
        ([row(split="train")] * 2, r"\(it has 2 in all; 1 are duplicates\).*column split says test"),
    ],
)
def test_a_split_without_rows_says_why(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, rows: list[Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        PromptFile(as_csv(tmp_path / "p.csv", rows)).prompts(tokenizer, "test", 9, seed=0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"clean": row()["clean"] + " ", "corrupted": row()["corrupted"] + " "}, "end in a space: 2 of 2"),
        (
            {name: row()[name].replace("store", "zeppelin") for name in ("clean", "corrupted")},
            "does not know 'zeppelin.' (in 2 of 2 prompts)",
        ),
        ({"corrupted": row()["clean"]}, "the same up to the answer: 1 of 1"),
        ({}, "has 1 different prompt, fewer than the 9 asked for"),
    ],
)
def test_what_is_odd_about_prompts_is_noted(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    task = PromptFile(as_csv(tmp_path / "p.csv", [row(**changed)]))
    assert any(said in note for note in task.prompts(tokenizer, "train", 9, seed=0).notes)
    assert len(task.prompts(tokenizer, "train", 1, seed=0).notes) == bool(changed)
    assert said in task.preview(CircuitModel.from_pretrained("toy")).replace("the 32 asked", "the 9 asked")


def test_the_names_of_auto_circuit_stand_for_ours(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Its files are JSON: https://github.com/UFO-101/auto-circuit, `data.py`."""
    pair = row()
    prompt = {"clean": pair["clean"], "corrupt": pair["corrupted"], "answers": [MARY, " Paul"], "wrong_answers": [JOHN]}
    (tmp_path / "p.json").write_text(json.dumps({"word_idxs": {}, "prompts": [prompt | {"other": 1}]}))
    batch = PromptFile(tmp_path / "p.json").prompts(tokenizer, "train", 1, seed=0)
    assert batch.clean.tolist() == [tokenizer.encode(pair["clean"])]
    assert batch.corrupted.tolist() == [tokenizer.encode(pair["corrupted"])]
    assert batch.answers.tolist() == [[ids(tokenizer, MARY, " Paul")]]
    assert batch.wrong_answers.tolist() == [[ids(tokenizer, JOHN)]]


def test_the_sample_file_shows_the_behavior() -> None:
    """It is for the toy model: every prompt is understood and answered."""
    model = CircuitModel.from_pretrained("toy")
    task = PromptFile(Path(__file__).parents[2] / "examples" / "prompts.csv")
    for split, size in zip(get_args(Split), (8, 4, 4), strict=True):
        batch = task.prompts(model.tokenizer, split, size, seed=0)
        assert len(batch) == size
        assert not batch.notes
    assert "right on 8 of 8 answers" in task.preview(model)


@pytest.mark.parametrize(("write", "name"), [(as_csv, "my.csv"), (as_jsonl, "my.jsonl"), (as_jsonl, "my.JSONL")])
def test_a_file_may_stand_for_the_task(tmp_path: Path, write: Any, name: str) -> None:
    path = write(tmp_path / name, [row()])
    task = specs.make("tasks", str(path))
    assert isinstance(task, PromptFile)
    assert task.path == path
    resolved = specs.resolve("tasks", str(path))
    assert resolved == specs.describe(task)
    assert specs.label("tasks", str(path)) == "prompt_file"
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        specs.make("tasks", str(tmp_path / "other.json"))


def test_a_file_may_stand_for_the_task_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_jsonl(tmp_path / "my.jsonl", [row(number) for number in range(4)])
    command = ["discover", "--model", "toy", "--strategy", "eap", "--out", "run", "--task"]
    assert main([*command, "my.jsonl", "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "eap on prompt_file" in shown
    assert "In the test split: The prompt file 'my.jsonl' has 1 different prompt, fewer than the 32" in shown
    assert main([*command[:-3], "--out", "other", "--config", "run/config.yaml"]) == 0
    assert main([*command, "your.csv"]) == 2
    assert "'your.csv' cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "my.txt").write_text("x")
    assert main([*command, "./my.txt"]) == 2
    assert "ends in '.txt'" in capsys.readouterr().err


def test_the_help_of_the_task_lists_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["discover", "--task.help", "prompt_file"])
    shown = capsys.readouterr().out
    for column in COLUMNS:
        assert f"`{column}`" in shown


def test_the_repr_is_the_call_that_makes_it(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "p.csv", [row()])
    assert repr(PromptFile(path)) == f"PromptFile(path={str(path)!r})"
