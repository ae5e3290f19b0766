"""The tasks of programs, and known circuits in a folder."""

import csv
import errno
import os
from pathlib import Path

import pytest
import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.evaluation.reference import load_reference
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import discover
from circuitkit.tasks.prompt_file import PromptFile
from circuitkit.truth.known_circuit import ABLATIONS
from circuitkit.truth.programs import PROGRAMS
from circuitkit.truth.task import ProgramTask, make_tokenizer

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("name", PROGRAMS)
def test_prompts(name):
    """Splits share no prompt, the pairs of a prompt have one length, and the seed decides."""
    program = PROGRAMS[name]()
    task = ProgramTask(f"{type(program).__module__}.{type(program).__qualname__}")
    tokenizer = make_tokenizer(program)
    batches = [task.prompts(tokenizer, split, 20, 1) for split in SPLITS]
    rows = [set(batch.clean_rows()) for batch in batches]
    assert [len(row) for row in rows] == [20, 20, 20]
    assert len(set.union(*rows)) == 60
    for batch in batches:
        assert batch.length == program.length
        assert not batch.unchanged.any()
        assert (batch.clean != tokenizer.unk_token_id).all()
        assert (batch.corrupted != tokenizer.unk_token_id).all()
    assert torch.equal(task.prompts(tokenizer, "train", 20, 1).clean, batches[0].clean)
    assert not torch.equal(task.prompts(tokenizer, "train", 20, 2).clean, batches[0].clean)


def test_a_task_is_made_from_its_spec():
    task = PROGRAMS["induction"]().build().task
    made = specs.make("tasks", specs.describe(task))
    assert repr(made) == repr(task) == "ProgramTask(program='circuitkit.truth.copying.Induction')"


@pytest.mark.parametrize("program", ["nothing", "circuitkit.truth.copying.Nothing", "circuitkit.errors.UsageError"])
def test_a_task_of_no_program(program):
    with pytest.raises(UsageError, match="no program"):
        ProgramTask(program)


def test_a_tokenizer_without_the_words():
    task = PROGRAMS["induction"]().build().task
    with pytest.raises(UsageError, match="does not know 'a'"):
        task.prompts(make_tokenizer(PROGRAMS["greater_than"]()), "train", 4, 0)


@pytest.mark.parametrize(("name", "family"), [("greater_than", "gpt2"), ("shared_heads", "llama")])
def test_a_folder_has_what_the_command_line_needs(name, family, tmp_path):
    known = PROGRAMS[name]().build(family)
    known.save(tmp_path / "known", examples=8, seed=3)
    folder = tmp_path / "known"
    model = CircuitModel.from_pretrained(folder / "model")
    assert model.graph == known.model.graph
    file = PromptFile(folder / "prompts.csv")
    for split in SPLITS:
        ours, found = known.task.prompts(known.model.tokenizer, split, 8, 3), file.prompts(model.tokenizer, split, 8, 0)
        for tensor in ("clean", "corrupted", "answers", "wrong_answers"):
            assert torch.equal(getattr(ours, tensor), getattr(found, tensor))
        with torch.no_grad():
            logits = [one.logits(one.final_stream(ours)).all() for one in (known.model, model)]
        assert torch.equal(*logits)
    for ablation in ABLATIONS:
        assert load_reference(folder / f"truth_{ablation}", model.graph) == known.truth(ablation)
    assert len(list(csv.DictReader((folder / "prompts.csv").open()))) == 24


def test_a_folder_is_not_overwritten(tmp_path):
    known = PROGRAMS["induction"]().build()
    (tmp_path / "prompts.csv").write_text("mine")
    with pytest.raises(UsageError, match="is not empty") as error:
        known.save(tmp_path)
    assert "choose another folder" in str(error.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("prompts.csv", "mine")]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        PROGRAMS["induction"]().build().save(tmp_path / "file" / "known")


def test_a_save_that_fails_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Circuit, "save", raise_full_disk)
    with pytest.raises(UsageError, match="No space left on device"):
        PROGRAMS["induction"]().build().save(tmp_path / "known")
    assert [file.name for file in tmp_path.rglob("*")] == ["known"]


def raise_full_disk(circuit: Circuit, folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_acdc_finds_the_truth_through_the_public_functions():
    known = PROGRAMS["key_value_lookup"]().build("llama", layers=3, heads=2, distractors=4)
    result = discover(known.model, known.task, "acdc", examples=16, sizes=())
    assert isinstance(result.circuit, Circuit)
    assert result.circuit.names() == known.truth("resample").names()
