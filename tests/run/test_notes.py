"""Caveats reach the reader: the result, its text, the files, the table of a comparison."""

import csv
import dataclasses
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.scripted import Case, Scripted
from support.word_tokenizers import byte_level, random_reader

import circuitkit
from circuitkit import Circuit, Discovery, DiscoveryStrategy, PromptBatch, Task
from circuitkit.cli.main import main
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.progress import GridProgress
from circuitkit.comparison.runner import compare
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import Objective
from circuitkit.report.comparison_tables import comparison_tables
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies import ACDC

UNDECIDABLE = ["--strategy", "acdc", "--strategy.threshold", "1e-6", "--precision", "pahq", "--precision.mode", "int8"]
WARNED = "This precision cannot decide the threshold 1e-06"


class Noting(DiscoveryStrategy):
    """Says something twice."""

    def discover(self, run: Discovery) -> Circuit:
        run.note("Beware of the dog.")
        run.note("Beware of the dog.")
        return Circuit.from_scores(run.model.graph, torch.ones(len(run.model.graph), dtype=torch.float64))


class Swapped(Task):
    """IOI with clean and corrupted prompts exchanged: the full model does worse."""

    def prompts(self, *arguments: object) -> PromptBatch:
        batch = circuitkit.tasks.IOI().prompts(*arguments)
        return dataclasses.replace(batch, clean=batch.corrupted, corrupted=batch.clean)


def test_a_note_of_a_strategy_is_in_the_result_once() -> None:
    with pytest.warns(UserWarning, match=r"Beware of the dog\.") as warned:
        result = circuitkit.discover("toy", "ioi", Noting(), examples=8, sizes=())
    assert len(warned) == 1
    assert result.notes == ["Beware of the dog."]
    assert str(result).count("Note: Beware of the dog.") == 1


def test_a_threshold_that_the_precision_cannot_decide_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["discover", "--model", "toy", "--task", "ioi", "--examples", "4", *UNDECIDABLE, "--out", "run"]) == 0
    assert f"Note: {WARNED}" in capsys.readouterr().out
    assert Result.load("run").notes[0].startswith(WARNED)


def test_notes_are_in_the_table_and_the_rows_of_a_comparison(tmp_path: Path) -> None:
    strategies = {"eap": "eap", "noting": {"class_path": f"{__name__}.Noting"}}
    grid = Grid({"toy": "toy"}, {"swapped": {"class_path": f"{__name__}.Swapped"}}, strategies, examples=4)
    rows = compare(grid, tmp_path / "out", accelerator="cpu").rows
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert {row["strategy"] for row in written if "Beware of the dog." in row["notes"]} == {"noting"}
    assert all("The full model does worse" in row["notes"] for row in written)
    text = StringIO()
    for table in comparison_tables(rows):
        Console(file=text, width=140).print(table)
    shown = " ".join(text.getvalue().split())
    assert shown.count("Note (noting): Beware of the dog.") == 1
    assert shown.count("Note: The full model does worse") == 1


@pytest.mark.filterwarnings("ignore:The model gives the answer")
def test_the_advice_for_more_prompts_knows_how_many_a_strategy_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    monkeypatch.setattr("circuitkit.run.evaluating.generalization_notes", lambda _, drawn: seen.append(drawn) or [])
    for strategy in (Scripted(), Scripted(lambda run: run.log(train_prompts=40)), ACDC(1.0, prompts_per_layer=1)):
        Case().run(strategy, sizes=())
    layers = Case().model.graph.layers
    assert seen == [None, 40, min(layers + 1, 4)]


class KilledError(Exception):
    """Stands for a kill."""


class NotingFirst(DiscoveryStrategy):
    """Notes and saves in its first run; the resumed one goes on."""

    died = False

    def discover(self, run: Discovery) -> Circuit:
        if not type(self).died:
            type(self).died = True
            run.note("Beware of the dog.")
            run.checkpoint(dict)
            raise KilledError
        return Circuit.from_scores(run.model.graph, torch.ones(len(run.model.graph), dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Beware")
def test_a_note_survives_an_interruption(tmp_path: Path) -> None:
    spec = {"class_path": f"{__name__}.NotingFirst"}
    with pytest.raises(KilledError):
        Discoverer("cpu", callbacks=[]).run("toy", "ioi", spec, examples=4, out=tmp_path / "run")
    result = Discoverer("cpu", callbacks=[]).run("toy", "ioi", spec, examples=4, out=tmp_path / "run", resume=True)
    assert "Beware of the dog." in result.notes


CHANCE = "The model gives the answer a larger logit than the wrong answer on 62% of the 8 train prompts"


def test_the_command_says_before_the_search_that_the_model_is_near_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def find(self: Noting, run: Discovery) -> Circuit:
        said.append(capsys.readouterr().err)
        return Circuit.from_scores(run.model.graph, torch.rand(len(run.model.graph), dtype=torch.float64))

    monkeypatch.setattr(Noting, "discover", find)
    arguments = ["discover", "--model", "toy", "--task", f"{__name__}.Swapped", "--strategy", f"{__name__}.Noting"]
    assert main([*arguments, "--examples", "8", "--out", "run"]) == 0
    assert said[0].count(CHANCE) == 1
    shown = capsys.readouterr()
    assert CHANCE not in "".join([*said[1:], shown.err])
    assert f"Note: {CHANCE}" in shown.out


def test_a_model_near_the_chance_of_four_choices_is_noted() -> None:
    model = random_reader(byte_level())
    said = "larger logit than every wrong answer on 25% of the 16 train prompts; chance is 25%"
    with pytest.warns(UserWarning, match=said):
        result = circuitkit.discover(model, "copy_mcqa", "eap", examples=16, sizes=())
    with pytest.warns(UserWarning, match=said):
        dry = Discoverer("cpu").dry_run(model, "copy_mcqa", "eap", examples=16)
    assert all(sum(said in note for note in notes) == 1 for notes in (result.notes, dry.notes))


def test_a_comparison_says_before_the_first_search_that_the_model_is_near_chance(tmp_path: Path) -> None:
    shown, strategies = StringIO(), {"eap": "eap", "hisp": "hisp"}
    grid = Grid(
        models={"toy": "toy"},
        tasks={"no": {"class_path": f"{__name__}.Swapped"}},
        strategies=strategies,
        examples=8,
        sizes=[0.5],
    )
    compare(grid, tmp_path / "out", progress=GridProgress(Console(file=shown, width=100)))
    lines = shown.getvalue().splitlines()
    assert lines[0] == "3 cells to run."
    assert lines[1].startswith(f"no in toy: {CHANCE}")
    assert [line[:5] for line in lines[2:]] == ["[1/3]", "[2/3]", "[3/3]"]


class Saturated(Objective):
    """Is the same whatever the model says."""

    def values(self, logits: Logits, batch: PromptBatch, reference: torch.Tensor | None) -> torch.Tensor:
        return (0 * logits.of(batch.answers)).sum((-2, -1))


def test_a_ranking_of_zeros_says_that_it_means_nothing() -> None:
    result = circuitkit.discover("toy", "ioi", "eap", objective=Saturated(), examples=8, sizes=[])
    assert any(note.startswith("Every edge scores 0") for note in result.notes)
    assert not any("scores 0" in note for note in circuitkit.discover("toy", "ioi", "eap", examples=8, sizes=[]).notes)
