"""The number of prompts per split, from where it is given to where prompts are made."""

from pathlib import Path
from typing import Any

import pytest

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.cli.main import main
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.reevaluate import reevaluate
from circuitkit.run.result import Result
from circuitkit.storage.text import read_yaml, to_yaml
from circuitkit.tasks.ioi import IOI


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """The splits that IOI was asked for, with the numbers of prompts."""
    found: set[tuple[str, int]] = set()
    made = IOI.prompts

    def prompts(self: IOI, tokenizer: Any, split: Any, examples: int, seed: int) -> Any:
        found.add((split, examples))
        return made(self, tokenizer, split, examples, seed)

    monkeypatch.setattr(IOI, "prompts", prompts)
    return found


def test_each_split_has_its_own_number(asked: set[tuple[str, int]], tmp_path: Path) -> None:
    result = circuitkit.discover("toy", "ioi", "random_edges", examples=(6, 3, 4), out=tmp_path / "run")
    assert {("train", 6), ("test", 4)} <= asked
    assert asked <= {("train", 6), ("validation", 3), ("test", 4)}
    assert result.config["examples"] == Result.load(tmp_path / "run").config["examples"] == [6, 3, 4]
    reevaluate(tmp_path / "run", splits=["validation"], sizes=[0.1, 1])
    assert ("validation", 3) in asked
    reevaluate(tmp_path / "run", sizes=[0.1, 1], examples=[2, 8, 5])
    assert {("train", 2), ("test", 5)} <= asked
    assert not {number for _, number in asked} & {8, 32}


def test_one_number_stays_one_in_the_configuration(asked: set[tuple[str, int]], tmp_path: Path) -> None:
    for number, examples in enumerate((5, [5, 5, 5])):
        out = tmp_path / str(number)
        circuitkit.discover("toy", "ioi", "random_edges", examples=examples, out=out)
        assert read_yaml(out / "config.yaml")["examples"] == 5
    assert {examples for _, examples in asked} == {5}
    again = circuitkit.discover("toy", "ioi", "random_edges", examples=[5, 5, 5], out=tmp_path / "0", resume=True)
    assert again.config["examples"] == 5


@pytest.mark.parametrize("way", ["option", "config"])
def test_three_numbers_on_the_command_line(
    way: str, asked: set[tuple[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    command = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "random_edges", "--out", out]
    if way == "option":
        assert main([*command, "--examples", "[6,3,4]"]) == 0
    else:
        (tmp_path / "config.yaml").write_text(to_yaml({"examples": [6, 3, 4]}))
        assert main([*command, "--config", str(tmp_path / "config.yaml")]) == 0
    assert {("train", 6), ("test", 4)} <= asked
    asked.clear()
    assert main(["discover", "--config", f"{out}/config.yaml", "--out", out, "--resume"]) == 0
    assert asked <= {("train", 6), ("validation", 3), ("test", 4)}
    asked.clear()
    assert main(["evaluate", out, "--examples", "[2,7,9]", "--splits", "[validation]", "--sizes", "[1]"]) == 0
    assert {("train", 2), ("validation", 7)} <= asked
    capsys.readouterr()
    assert main(["evaluate", out, "--examples", "[2,7]"]) == 2
    assert "examples=[2, 7] is neither" in capsys.readouterr().err


def test_wrong_numbers_and_splits_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    model = CircuitModel.from_pretrained("toy")
    result = circuitkit.discover(model, "ioi", "random_edges", examples=2, out=tmp_path / "run")
    for examples in ([2, 2], 0, "3"):
        with pytest.raises(UsageError, match="neither a positive integer nor three"):
            circuitkit.discover(model, "ioi", "random_edges", examples=examples)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="neither a positive integer nor three"):
            circuitkit.evaluate(model, result.circuit, "ioi", examples=examples)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="neither a positive integer nor three"):
            reevaluate(tmp_path / "run", examples=examples)  # type: ignore[arg-type]
    for act in (
        lambda: circuitkit.evaluate(model, result.circuit, "ioi", split="dev"),  # type: ignore[arg-type]
        lambda: reevaluate(tmp_path / "run", splits=["dev"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="no split 'dev'"):
            act()


def test_evaluate_takes_three_numbers(asked: set[tuple[str, int]]) -> None:
    model = CircuitModel.from_pretrained("toy")
    circuitkit.evaluate(model, Circuit.from_names(model.graph, ["input->logits"]), "ioi", examples=[6, 3, 4], sizes=[1])
    assert asked == {("train", 6), ("test", 4)}
