"""What a user can get wrong: one clear line, a non-zero exit status, no traceback, and no incomplete files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.tiny import random_batch, tiny

from circuitkit import Circuit, discover
from circuitkit.cli.main import main
from circuitkit.config import specs
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models import fetch
from circuitkit.run.result import VERSION

DISCOVER = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]
PROMPTS = ["discover", "--model", "toy", "--strategy", "eap", "--task", "prompt_file", "--task.path", "prompts.csv"]
HEADER = "clean,corrupted,answer,wrong_answer\n"
# Words that the toy model knows as one token each
ROW = "When Mary and John got a ring at the {place} John decided to give it to,{corrupted},{answer}, John\n"
TWIN = "When Mary and John got a ring at the school Mary decided to give it to"


def row(place: str = "school", corrupted: str = TWIN, answer: str = " Mary") -> str:
    return ROW.format(place=place, corrupted=corrupted, answer=answer)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def nothing() -> None:
    pass


def write(name: str, text: str) -> Callable[[], None]:
    return lambda: Path(name).write_text(text) and None


def alien_architecture() -> None:
    Path("alien").mkdir()
    Path("alien/config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))


def without_weights() -> None:
    Path("hollow").mkdir()
    Path("hollow/config.json").write_text(json.dumps({"model_type": "gpt2"}))


def with_broken_tokenizer() -> None:
    shutil.copytree(fetch.TOY, "broken")
    Path("broken/tokenizer.json").write_text('{"a": 1')


def with_results() -> None:
    Path("full").mkdir()
    Path("full/result.json").write_text("{}")


def damaged_run() -> None:
    Path("damaged").mkdir()
    Path("damaged/result.json").write_text(f'{{"version": {VERSION}}}')


def old_run() -> None:
    Path("old").mkdir()
    Path("old/result.json").write_text('{"version": 0}')


# What is set up; the command; the exit status; what the line says
CASES = {
    "unknown architecture": (
        alien_architecture,
        ["discover", "--model", "alien", "--task", "ioi", "--strategy", "eap"],
        2,
        ["'bert' is an encoder", "gpt2, gpt_neox, gptj, llama"],
    ),
    "no such model": (nothing, [*DISCOVER, "--model", "no/such/folder"], 2, ["'no/such/folder'"]),
    "a model without weights": (without_weights, [*DISCOVER, "--model", "hollow"], 1, ["'hollow'", "cannot be loaded"]),
    "unequal lengths": (
        write("prompts.csv", HEADER + "".join(row() for _ in range(8)) + row(corrupted="Mary decided to give it to")),
        [*PROMPTS, "--examples", "99"],
        2,
        ["Row 9", "clean and 6 corrupted tokens"],
    ),
    "an answer of several tokens": (
        write("prompts.csv", HEADER + "".join(row(answer=" Mary John") for _ in range(8))),
        PROMPTS,
        2,
        ["' Mary John'", "one token"],
    ),
    "an empty file": (write("prompts.csv", ""), PROMPTS, 2, ["'prompts.csv'", "no rows"]),
    "missing columns": (
        write("prompts.csv", "clean,corrupt\na,b\n"),
        PROMPTS,
        2,
        ["'clean', 'corrupt'", "needs clean, corrupted"],
    ),
    "no such prompt file": (nothing, PROMPTS, 2, ["prompts.csv"]),
    "no path for the prompts": (nothing, PROMPTS[:-2], 2, ["PromptFile is given no path", "such as task.path"]),
    "a threshold that is not a number": (
        nothing,
        [*DISCOVER, "--strategy", "acdc", "--strategy.threshold", "low"],
        2,
        ["threshold of ACDC is 'low'", "Give a number"],
    ),
    "a threshold that is NaN": (
        write("own.yaml", "strategy: {class_path: acdc, init_args: {threshold: .nan}}"),
        [*DISCOVER, "--config", "own.yaml"],
        2,
        ["threshold of ACDC is 'NaN'"],
    ),
    "an argument that is gone": (
        nothing,
        [*DISCOVER, "--strategy", "acdc", "--strategy.thresholds", "[1]"],
        2,
        ["no ACDC argument 'thresholds'", "Did you mean 'threshold'"],
    ),
    "a strategy with a typo": (nothing, [*DISCOVER, "--strategy", "adcd"], 2, ["'adcd'", "Did you mean 'acdc'", "eap"]),
    "a task with a typo": (nothing, [*DISCOVER, "--task", "iio"], 2, ["'iio'", "Did you mean 'ioi'"]),
    "a policy with a typo": (nothing, [*DISCOVER, "--precision", "fulll"], 2, ["'fulll'", "Did you mean 'full'"]),
    "a class path to nothing": (nothing, [*DISCOVER, "--strategy", "my.Own"], 2, ["'my.Own'", "No module named 'my'"]),
    "a class that is no strategy": (
        nothing,
        [*DISCOVER, "--strategy", "circuitkit.data.objectives.KLDivergence"],
        2,
        ["KLDivergence", "DiscoveryStrategy"],
    ),
    "an argument of no strategy": (
        nothing,
        ["discover", "--model", "toy", "--task", "ioi", "--strategy.threshold", "0.3"],
        2,
        ["The strategy has no name", "--strategy NAME"],
    ),
    "a broken tokenizer": (
        with_broken_tokenizer,
        [*DISCOVER, "--model", "broken"],
        1,
        ["tokenizer of 'broken' cannot be read", "Expecting ','"],
    ),
    "an unknown option": (nothing, [*DISCOVER, "--sed", "1"], 2, ["'sed'", "Did you mean 'seed'"]),
    "an unknown argument": (
        nothing,
        [*DISCOVER, "--strategy", "acdc", "--strategy.treshold", "1"],
        2,
        ["'treshold'", "Did you mean 'threshold'"],
    ),
    "an unknown key in a config": (
        write("own.yaml", "model: toy\ntask: ioi\nstrategy: eap\nexmples: 4\n"),
        ["discover", "--config", "own.yaml"],
        2,
        ["'exmples'", "Did you mean 'examples'"],
    ),
    "an unknown key of a strategy in a config": (
        write("own.yaml", "strategy: {class_path: acdc, init_args: {treshold: 4}}\n"),
        [*DISCOVER, "--config", "own.yaml"],
        2,
        ["ACDC argument 'treshold'"],
    ),
    "an unknown key beside class_path": (
        write("own.yaml", "strategy: {class_path: acdc, args: {threshold: 4}}\n"),
        [*DISCOVER, "--config", "own.yaml"],
        2,
        ["unknown key 'args'", "init_args"],
    ),
    "an unknown key in a comparison": (
        write("own.yaml", "models: {toy: toy}\ntasks: {ioi: ioi}\nstrategy: {eap: eap}\n"),
        ["compare", "--config", "own.yaml"],
        2,
        ["'strategy'", "Did you mean 'strategies'"],
    ),
    "an old key in a comparison": (
        write("own.yaml", "models: {toy: toy}\ntasks: {ioi: ioi}\nstrategies: {eap: eap}\nprecisions: {full: full}\n"),
        ["compare", "--config", "own.yaml"],
        2,
        ["'precisions'", "Did you mean 'precision'"],
    ),
    "a strategy with a typo in a comparison": (
        nothing,
        ["compare", "--strategies", "{a: eep}"],
        2,
        ["'eep'", "Did you mean 'eap'"],
    ),
    "an old option of comparisons": (
        write("own.yaml", "models: {toy: toy}\ntasks: {ioi: ioi}\nstrategies: {eap: eap}\nobjective: kl\n"),
        ["compare", "--config", "own.yaml"],
        2,
        ["'objective'", "Did you mean 'objectives'"],
    ),
    "a comparison to resume nowhere": (nothing, ["compare", "--resume"], 2, ["--resume", "--out"]),
    "a comparison over nothing": (nothing, ["compare", "--strategies", "{}"], 2, ["no strategies"]),
    "a config that is not there": (nothing, [*DISCOVER, "--config", "own.yaml"], 2, ["'own.yaml'"]),
    "a config that is not YAML": (
        write("own.yaml", "model: toy\nmodel: [}\n"),
        [*DISCOVER, "--config", "own.yaml"],
        2,
        ["'own.yaml'", "line 2"],
    ),
    "a spec that is not YAML": (nothing, [*DISCOVER, "--strategy", "{a: [}"], 2, ["--strategy is not YAML"]),
    "a config that is a list": (write("own.yaml", "- a\n"), [*DISCOVER, "--config", "own.yaml"], 2, ["'own.yaml'"]),
    "examples that are no number": (
        nothing,
        [*DISCOVER, "--examples", "many"],
        2,
        ["examples is 'many'", "whole number"],
    ),
    "no examples": (nothing, [*DISCOVER, "--examples", "0"], 2, ["examples=0"]),
    "a negative seed": (nothing, [*DISCOVER, "--seed", "-1"], 2, ["-1"]),
    "an unknown dtype": (nothing, [*DISCOVER, "--dtype", "float31"], 2, ["'float31'", "float32"]),
    "an unknown kv": (nothing, [*DISCOVER, "--kv", "heads"], 2, ["'heads'", "'group'"]),
    "an unknown accelerator": (nothing, [*DISCOVER, "--accelerator", "tpu"], 2, ["'tpu'", "'cpu'"]),
    "several devices": (nothing, [*DISCOVER, "--devices", "2"], 2, ["devices=2"]),
    "a strategy that cannot work so": (nothing, [*DISCOVER, "--objective", "kl"], 2, ["vanishes", "logit_difference"]),
    "a folder with results": (with_results, [*DISCOVER, "--out", "full"], 2, ["'full'", "already holds results"]),
    "a folder with results, compared": (with_results, ["compare", "--out", "full"], 2, ["'full'", "no comparison"]),
    "a folder that is a file": (write("file", "x"), [*DISCOVER, "--out", "file"], 2, ["'file' is not a folder"]),
    "a folder in a file": (write("file", "x"), [*DISCOVER, "--out", "file/run"], 1, ["cannot be written"]),
    "a run folder that is none": (nothing, ["evaluate", "nowhere"], 2, ["'nowhere' is not a finished run"]),
    "a run folder that is empty": (lambda: Path("empty").mkdir(), ["evaluate", "empty"], 2, ["'empty'", "result.json"]),
    "a damaged run": (damaged_run, ["evaluate", "damaged"], 1, ["is damaged"]),
    "a run of another version": (old_run, ["evaluate", "old"], 1, [f"not a result of version {VERSION}"]),
    "no command": (nothing, ["discver"], 2, ["'discver'", "Did you mean 'discover'"]),
    "an unknown kind": (nothing, ["list", "strategie"], 2, ["'strategie'", "Did you mean 'strategies'"]),
    "nothing to list": (nothing, ["list"], 2, ["No kind", "circuitkit list --help"]),
    "nothing to fetch": (nothing, ["fetch", "gpt5"], 2, ["'gpt5'", "smollm2-135m"]),
    "nothing to discover": (nothing, ["discover"], 2, ["No model", "no strategy"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prepare, command, status, said = CASES[case]
    prepare()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(command) == status
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert errors.startswith("circuitkit: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert len(errors) < 500
    for part in said:
        assert part in errors, errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "runs").exists()


def test_what_the_message_advises_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--out", "run"]) == 0
    assert main([*DISCOVER, "--out", "run"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*DISCOVER, "--out", "run", "--overwrite"]) == 0


def test_a_damaged_circuit_in_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--out", "run"]) == 0
    capsys.readouterr()
    Path("run/circuit.safetensors").write_bytes(b"nothing")
    assert main(["evaluate", "run"]) == 1
    assert "circuit.safetensors is damaged" in capsys.readouterr().err
    with pytest.raises(CircuitKitError):
        Circuit.load("run")


def test_a_run_config_without_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--out", "run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    del config["task"]
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 1
    assert "has no entry 'task'" in capsys.readouterr().err


def test_usage_errors_and_failures_have_their_exit_status() -> None:
    assert (CircuitKitError.exit_code, UsageError.exit_code) == (1, 2)
    with pytest.raises(UsageError, match="PromptFile is given no path"):
        specs.make("tasks", "prompt_file")
    error = UsageError("It is so.", "Do this.")
    assert (str(error), error.problem, error.remedy) == ("It is so. Do this.", "It is so.", "Do this.")


def test_a_run_folder_does_not_hold_a_prompt_batch(capsys: pytest.CaptureFixture[str]) -> None:
    discover(tiny("gpt2"), random_batch(), "eap", out="run")
    assert main(["evaluate", "run"]) == 2
    error = capsys.readouterr().err
    assert "was made with a PromptBatch" in error
    assert "circuitkit.evaluate(model, circuit, batch)" in error
