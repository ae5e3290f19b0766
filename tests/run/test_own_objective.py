"""A task's own objective is the one that a run takes where none is given."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit.cli.main import main
from circuitkit.data.objectives import KLDivergence
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.run_config import RunConfig
from circuitkit.tasks.ioi import IOI


class Probable(IOI):
    """IOI with another objective of its own."""

    objective = "probability_difference"


class Misspelled(IOI):
    """Names an objective that does not exist."""

    objective = "probability_diference"


PROBABLE = {"class_path": f"{__name__}.Probable"}
OF = {
    "logit_difference": "circuitkit.data.objectives.LogitDifference",
    "probability_difference": "circuitkit.data.objectives.ProbabilityDifference",
    "kl": "circuitkit.data.objectives.KLDivergence",
}


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("ioi", {}, "logit_difference"),
        ("greater_than", {}, "probability_difference"),
        (PROBABLE, {}, "probability_difference"),
        (Probable(), {"objective": None}, "probability_difference"),
        (Probable(), {"objective": "logit_difference"}, "logit_difference"),
        (PROBABLE, {"objective": KLDivergence()}, "kl"),
        (random_batch(), {}, "logit_difference"),
    ],
)
def test_a_run_takes_the_objective_of_its_task(task: Any, options: Any, expected: str) -> None:
    found = RunConfig.make("toy", task, "acdc", seed=0, **options)
    assert found.config["objective"] == {"class_path": OF[expected]}
    assert f"{type(found.objective).__module__}.{type(found.objective).__name__}" == OF[expected]


def test_a_task_whose_objective_does_not_exist_is_refused() -> None:
    with pytest.raises(circuitkit.UsageError, match="Did you mean 'probability_difference'"):
        RunConfig.make("toy", Misspelled(), "acdc", seed=0)


def test_discovery_evaluation_and_dry_run_measure_in_it() -> None:
    result = circuitkit.discover("toy", Probable(), "eap", examples=4, sizes=[0.1])
    assert result.evaluations["test"][0].objective == "probability_difference"
    found = circuitkit.evaluate("toy", result.circuit, Probable(), sizes=[0.1], examples=4)
    assert found.objective == "probability_difference"
    with pytest.raises(circuitkit.UsageError, match="gradient vanishes"):
        Discoverer("cpu").dry_run("toy", Probable(), "eap", objective="kl", examples=4)
    model = tiny("gpt2")
    circuit = circuitkit.discover(model, random_batch(), "eap", sizes=()).circuit
    assert circuitkit.evaluate(model, circuit, random_batch(), sizes=[0.5]).objective == "logit_difference"


def test_the_command_takes_it_and_writes_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["discover", "--model", "toy", "--task", PROBABLE["class_path"], "--strategy", "eap", "--examples", "4"]
    assert main([*arguments, "--out", "own"]) == 0
    config = Path("own/config.yaml")
    assert yaml.safe_load(config.read_text())["objective"]["class_path"] == OF["probability_difference"]
    assert main(["discover", "--config", str(config), "--out", "again", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out.partition("model:")[2].join(["model:", ""]))["objective"] == {
        "class_path": OF["probability_difference"]
    }
    assert main([*arguments, "--objective", "logit_difference", "--out", "given"]) == 0
    assert yaml.safe_load(Path("given/config.yaml").read_text())["objective"]["class_path"] == OF["logit_difference"]
