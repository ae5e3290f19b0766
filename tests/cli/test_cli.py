"""The commands, as a user types them."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pandas as pd
import pytest
import yaml

import circuitkit
from circuitkit import Circuit
from circuitkit.cli.main import COMMANDS, main
from circuitkit.run.result import Result

DISCOVER = ["discover", "--model", "toy", "--task", "ioi", "--examples", "8"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_discover_by_short_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--strategy", "acdc", "--strategy.threshold", "0.1", "--out", "run"]) == 0
    shown, errors = capsys.readouterr()
    assert "acdc on ioi, in toy" in shown
    assert "Saved in run" in shown
    assert errors == ""
    expected = circuitkit.discover("toy", task="ioi", strategy="acdc", strategy_args={"threshold": 0.1}, examples=8)
    assert Circuit.load("run") == expected.circuit


@pytest.mark.parametrize(
    "strategy",
    [
        ["--strategy=acdc", "--strategy.init_args.threshold=0.1"],
        ["--strategy", "ACDC", "--strategy.threshold", "1e-1"],
        ["--strategy", "circuitkit.strategies.acdc.ACDC", "--strategy.threshold", "0.1"],
        ["--strategy", "{class_path: acdc, init_args: {threshold: 0.1}}"],
        ["--strategy.threshold", "0.1", "--strategy", "acdc"],
        ["--strategy.threshold=0.1", "--seed", "1", "--strategy=acdc"],
        ["--strategy.screen", "0.5", "--strategy.threshold", "0.1", "--strategy", "acdc", "--strategy.screen", "null"],
    ],
)
def test_every_way_to_name_a_strategy(strategy: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, *strategy, "--precision", "full", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["strategy"]["class_path"] == "circuitkit.strategies.acdc.ACDC"
    assert printed["strategy"]["init_args"]["threshold"] == 0.1
    assert printed["precision"] == {"class_path": "circuitkit.precision.base.FullPrecision"}


def test_a_config_file_with_short_names_and_an_override(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(
        "model: toy\ntask: {class_path: ioi, init_args: {corruption: swap}}\nobjective: kl\nexamples: 4\n"
        "strategy: {class_path: acdc, init_args: {threshold: [0.1, 0.2]}}\nprecision: null\n"
    )
    assert main(["discover", "--config", "own.yaml", "--examples", "6", "--seed", "5", "--out", "run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["task"]["init_args"]["corruption"] == "swap"
    assert config["objective"]["class_path"].endswith("KLDivergence")
    assert (config["examples"], config["seed"]) == (6, 5)
    assert len(Result.load("run").circuits) == 2


def test_the_config_of_a_run_repeats_the_run() -> None:
    assert main([*DISCOVER, "--strategy", "eap", "--ablation", "mean", "--kv", "head", "--out", "a"]) == 0
    assert main(["discover", "--config", "a/config.yaml", "--out", "b"]) == 0
    one, two = Result.load("a"), Result.load("b")
    assert one.circuits == two.circuits
    assert one.evaluations == two.evaluations
    assert one.config == two.config
    assert main(["discover", "--config", "a/config.yaml", "--out", "a", "--resume"]) == 0
    assert main(["discover", "--config", "a/config.yaml", "--out", "a", "--overwrite"]) == 0


def test_the_printed_config_repeats_a_chosen_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--sizes", "[0.1, 1]", "--splits", "[validation]", "--rankings", "[greedy, random]"]
    assert main([*DISCOVER, "--strategy", "eap", *chosen, "--memory_budget", "1GB", "--out", "a"]) == 0
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert (config["sizes"], config["splits"], config["memory_budget"]) == ([0.1, 1.0], ["validation"], 2**30)
    assert main(["discover", "--config", "a/config.yaml", "--out", "b"]) == 0
    one, two = Result.load("a"), Result.load("b")
    assert {point.ranking for point in one.evaluations["validation"][0].points} == {"greedy", "random"}
    assert (one.evaluations, one.config) == (two.evaluations, two.config)
    capsys.readouterr()
    assert main(["discover", "--config", "a/config.yaml", "--sizes", "[0.2]", "--out", "a", "--resume"]) == 2
    assert "evaluated with sizes [0.1, 1.0], not [0.2]" in capsys.readouterr().err


def test_every_run_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main([*DISCOVER, "--strategy", "random_edges"]) == 0
    folders, shown = sorted(Path("runs").iterdir()), capsys.readouterr().out
    assert len(folders) == 2
    assert all((folder / "result.json").exists() for folder in folders)
    assert all(str(folder) in shown for folder in folders)
    assert folders[0].name.startswith("random_edges-ioi-")


def test_device_and_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*DISCOVER, "--strategy", "eap", "--dtype", "float64", "--accelerator", "cpu", "--devices", "1"]
    assert main([*arguments, "--out", "run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["dtype"], config["accelerator"], config["devices"]) == ("float64", "cpu", 1)


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--strategy", "acdc", "--strategy.threshold", "[0.1, 1]", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--sizes", "[0.1, 1.0]"]) == 0
    shown = capsys.readouterr().out
    assert "threshold 0.1, signed" in shown
    assert "threshold 1, signed" in shown
    assert "CPR" in shown
    found = json.loads(Path("run/evaluation.json").read_text())
    model = circuitkit.CircuitModel.from_pretrained("toy")
    expected = circuitkit.evaluate(model, Circuit.load("run", "circuit_2"), "ioi", sizes=[0.1, 1.0], examples=8)
    assert found["evaluations"]["test"][1] == {**expected.to_dict(), "seconds": ANY}
    assert set(found["evaluations"]) == {"train", "test"}
    options = ["--splits", "[validation]", "--examples", "4", "--seed", "2", "--rankings", "[absolute, greedy]"]
    assert main(["evaluate", "run", *options]) == 0
    found = json.loads(Path("run/evaluation.json").read_text())
    assert (list(found["evaluations"]), found["seed"]) == (["validation"], 2)
    (first, _) = found["evaluations"]["validation"]
    assert first["prompts"] == 4
    assert len(first["points"]) == 2 * 10 + 2
    assert len(pd.read_parquet("run/evaluation.parquet")) == 2 * (2 * 10 + 2 + 2) * 3 * 4


def test_evaluate_samples_edges_and_compares_with_a_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, "--strategy", "acdc", "--strategy.threshold", "0.1", "--out", "run"]) == 0
    circuit = Circuit.load("run")
    circuit.to_eap_ig("reference.json", d_model=8)
    options = ["--sizes", "[]", "--splits", "[test]", "--minimality", "3"]
    capsys.readouterr()
    for reference in ("run", "reference.json"):
        assert main(["evaluate", "run", *options, "--reference", reference]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"Agreement with the reference of {len(circuit)} edges: ROC AUC of |score| 1.00" in shown
        assert f"Jaccard index of its {len(circuit)} edges 1.00" in shown
        assert "precision 1.00, recall 1.00" in shown
        assert "of 3 sampled edges" in shown
    (found,) = json.loads(Path("run/evaluation.json").read_text())["evaluations"]["test"]
    assert {one["edge"] for one in found["minimality"]} < set(circuit.names())
    assert len(pd.read_parquet("run/evaluation.parquet")) == (2 + 3 + 2) * 3 * 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reference", "none"], "There is no 'none'"),
        (["--minimality", "3"], "is a ranking: it has no edges of its own"),
        (["--minimality", "-1"], "Give the number of edges to sample"),
    ],
)
def test_evaluate_refuses_before_it_evaluates(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*DISCOVER, "--strategy", "eap", "--out", "run"]) == 0
    monkeypatch.setattr("circuitkit.evaluation.evaluator.Evaluator.prepare", lambda *_, **__: pytest.fail("evaluated"))
    assert main(["evaluate", "run", *options]) == 2
    assert said in capsys.readouterr().err


def test_compare_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 0
    shown, progress = capsys.readouterr()
    for name in ("eap", "acdc, threshold 0.03, signed", "random control", "CPR", "CMD", "peak"):
        assert name in shown
    assert "[2/3] acdc (full) on ioi, toy, logit_difference, seed 0" in progress
    (folder,) = Path("runs").iterdir()
    with (folder / "results.csv").open() as file:
        assert {row["strategy"] for row in csv.DictReader(file)} == {"eap", "acdc", "random control"}


def test_the_default_config_of_compare_is_printed_and_can_be_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["strategies"]["eap"] == "eap"
    Path("own.yaml").write_text(printed)
    arguments = ["--strategies", "{random: random_edges}", "--examples", "4", "--seed", "7", "--out", "cmp"]
    assert main(["compare", "--config", "own.yaml", *arguments]) == 0
    config = yaml.safe_load(Path("cmp/config.yaml").read_text())
    assert (list(config["strategies"]), config["examples"], config["seeds"]) == (["random"], 4, [7])


def test_a_config_replaces_the_default_one_entirely(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("models: {toy: toy}\ntasks: {ioi: ioi}\n")
    assert main(["compare", "--config", "own.yaml"]) == 2
    assert "No strategies is given" in capsys.readouterr().err


def test_a_comparison_with_a_failed_cell_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    strategies = "{eap: eap, random: random_edges}"
    arguments = ["--strategies", strategies, "--objectives", "{kl: kl}", "--examples", "4"]
    assert main(["compare", *arguments, "--out", "cmp"]) == 1
    shown, errors = capsys.readouterr()
    assert "random" in shown
    assert "its gradient vanishes" in errors
    assert "1 of 2 cells failed" in errors


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("strategies", ["acdc", "eap", "edge_patching", "pahq_acdc", "random_edges"]),
        ("precision", ["full", "pahq", "all_low"]),
        ("tasks", ["arithmetic", "greater_than", "ioi", "prompt_file"]),
        ("models", ["toy", "smollm2-135m"]),
        ("families", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"]),
        ("objectives", ["kl", "logit_difference"]),
        ("ablations", ["resample", "mean", "zero"]),
    ],
)
def test_list(kind: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert set(names) <= set(shown)


def test_list_of_tasks_with_what_a_model_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tasks", "--model", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  i")}
    assert rows["ioi"] == ["100%", "[94%,", "100%]", "50%", ANY, ANY, ANY, "2,955,696", "1,474,512", "1,474,512"]
    assert rows["induction"][3:4] + rows["induction"][-6:] == ["10%", "over", "10^16", "over", "10^13", "over", "10^13"]
    assert any(line.startswith("induction: close to chance; toy may not do this task") for line in lines)
    assert any(line.startswith("capital: Capital finds 0 capitals") for line in lines)
    assert "prompt_file: not measured, since it needs path." in lines
    assert main(["list", "strategies", "--model", "toy"]) == 2
    assert "--model has no meaning for the list of strategies" in capsys.readouterr().err


def test_list_by_the_old_name_of_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "precision"]) == 0
    expected = capsys.readouterr().out
    assert main(["list", "policies"]) == 0
    shown, errors = capsys.readouterr()
    assert shown == expected
    assert len(errors.splitlines()) == 1
    assert "'policies' is now called 'precision'" in errors


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"circuitkit {circuitkit.__version__}\n"
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"circuitkit {command}" in capsys.readouterr().out
    assert main([]) == 2


def test_hyphens_in_names_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--memory-budget=1GB", "--strategy", "acdc", "--strategy.start-size=0.5", "--strategy.start", "eap"]
    out = ["--out", "my-run"]
    assert main([*DISCOVER, *arguments, *out, "--trusted-only", "--resume", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["memory_budget"], printed["out"], printed["trusted_only"]) == ("1GB", "my-run", True)
    assert printed["strategy"]["init_args"]["start_size"] == 0.5
    assert main(["compare", "--tasks.my-task=greater-than", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["tasks"]["my-task"] == "greater-than"  # a label, and its value
    assert main([*DISCOVER, "--strategy", "eap", "--dry-run"]) == 0
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", ["discover", "compare"])
def test_help_shows_one_name_for_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--trusted_only" in shown
    assert "--trusted-only" not in shown


def test_devices_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "torchrun" not in shown
    assert "only 1: a cell runs on one device" in " ".join(shown.split())
    Path("old.yaml").write_text("models: {toy: toy}\ntasks: {ioi: ioi}\nstrategies: {eap: eap}\ndevices: 1\n")
    assert main(["compare", "--config", "old.yaml", "--print_config"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--strategy.help", "acdc"],
        ["--strategy.help=acdc"],
        ["--strategy", "acdc", "--strategy.help"],
        ["--strategy.help", "--strategy", "acdc"],
        ["--strategy=acdc", "--strategy.help", "--model", "toy"],
    ],
)
def test_help_of_a_class(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", *arguments]) == 0
    assert "try_whole_reader" in capsys.readouterr().out


def test_an_interrupted_run_leaves_no_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("circuitkit.strategies.eap.EAP.discover", interrupt)
    assert main([*DISCOVER, "--strategy", "eap", "--out", "run"]) == 130
    assert capsys.readouterr().err == "circuitkit: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_as_a_module_and_into_a_closed_pipe() -> None:
    command = f"set -o pipefail; {sys.executable} -m circuitkit list strategies | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    ran = subprocess.run([sys.executable, "-m", "circuitkit", "--version"], capture_output=True, text=True)
    assert ran.stdout.startswith("circuitkit ")


def test_a_comparison_is_resumed_with_its_own_grid(capsys: pytest.CaptureFixture[str]) -> None:
    strategies = '{"mine": "random_edges"}'
    assert main(["compare", "--strategies", strategies, "--examples", "4", "--out", "out"]) == 0
    capsys.readouterr()
    assert main(["compare", "--resume", "--out", "out"]) == 0
    assert "mine" in capsys.readouterr().out
    assert set(pd.read_csv("out/results.csv").strategy) == {"mine"}
