"""`circuitkit check CLASS`: what the command takes, and what it shows."""

from pathlib import Path
from typing import Any

import pytest
from support.outside import EXAMPLES

from circuitkit import CircuitModel, PromptBatch, Task, UsageError
from circuitkit.cli.main import main
from circuitkit.contracts import Outcome, check_class
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
    assert lines[1] == "passed          gives one value per prompt, with a gradient"
    assert lines[-1] == "4 passed"


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
    "four": "import not_installed",
    "five": "import torch\nfrom circuitkit import DiscoveryStrategy\n\n\n"
    "class Strategy(DiscoveryStrategy):\n"
    "    def __init__(self):\n"
    "        torch.nn.Linear(2, 2)(torch.zeros(3))\n\n"
    "    def discover(self, run):\n"
    "        return None\n",
}
"""Modules that cannot be imported, and constructors that raise, one of them inside torch."""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("eapp", "no strategy, task, precision policy, ... called 'eapp'. Did you mean 'eap'"),
        ("nowhere.Strategy", "'nowhere.Strategy' cannot be imported"),
        ("broken_one.py", "'broken_one.py' is a file, not a class path. Name the class, from"),
        ("prompts.txt", "'prompts.txt' is a file, not a class path. A prompt file ends in .csv, .jsonl or .json."),
        ("circuitkit.tasks.Nothing", "cannot be imported"),
        ("circuitkit.Circuit", "is no strategy, task, precision policy, objective, ablation or family"),
        ("{class_path: my.S", "is not YAML"),
        ("{class_path: eap_ig, init_args: {stepz: 3}}", "stepz"),
        ("{init_args: {}}", "names no class"),
        ("{class_path: gptj, init_args: {heads: 3}}", "A family takes no init_args"),
        ("broken_one.Strategy", "It raised NameError: name 'undefined' is not defined (broken_one.py, line 1)"),
        ("broken_two.Strategy", "'broken_two.Strategy' cannot be imported. It raised SyntaxError"),
        ("broken_three.Strategy", "Strategy cannot be made. It raised KeyError: 'steps' (broken_three.py, line 6)"),
        ("broken_four.Strategy", "Install what has the module 'not_installed', which it imports."),
        ("broken_five.Strategy", "(broken_five.py, line 7)"),
    ],
)
def test_what_is_no_class_of_ours_is_refused(
    what: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(text)
    (tmp_path / "prompts.txt").write_text("clean,corrupted")
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
    assert {outcome.state for outcome in outcomes if "no arguments" not in outcome.text} == {"passed"}


class Refusing(Task):
    """Refuses every tokenizer.

    Args:
        place: where.
    """

    def __init__(self, place: str = "store") -> None:
        self.place = place

    def prompts(self, *_: Any, **__: Any) -> PromptBatch:
        raise UsageError("No word is one token.", "Choose another model.")


@pytest.mark.parametrize("task", ["capital", Refusing])
def test_nothing_is_checked_of_a_task_that_refuses_the_model(task: str | type) -> None:
    assert [outcome.state for outcome in check_class(task)] == ["not applicable"]


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
