"""Packages outside: a strategy, policy, task, objective and family, each one file and an entry point."""

import csv
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer, Starcoder2Config, Starcoder2ForCausalLM

from circuitkit.models.fetch import TOY

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {
    "my_strategy": ("strategies", "late_layers", "my_strategy.LateLayers", "First-order effects"),
    "my_policy": ("precision", "half_outputs", "my_policy.HalfOutputs", "W_O in 16 bits"),
    "my_task": ("tasks", "repeated_names", "my_task.RepeatedNames", "continues with"),
    "my_objective": ("objectives", "margin", "my_objective.Margin", "best answer's logit"),
    "my_family": ("families", "starcoder2", "my_family.Starcoder2", "Starcoder2ForCausalLM"),
}
"""Kind, short name, class, and words of the description."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that `pip install --target` would make, without a network or a build."""
    target = tmp_path_factory.mktemp("site")
    for package in PACKAGES:
        project = tomllib.loads((EXAMPLES / package / "pyproject.toml").read_text())["project"]
        (target / f"{package}.py").write_text((EXAMPLES / package / f"{package}.py").read_text())
        info = target / f"{package}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = [f"[{group}]\n" + "\n".join(f"{name} = {where}" for name, where in points.items())
                 for group, points in project["entry-points"].items()]  # fmt: skip
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def circuitkit(installed: Path, *arguments: str, cwd: Path) -> str:
    """Run a command in a new process, since a process reads entry points once."""
    ran = subprocess.run(
        [sys.executable, "-m", "circuitkit", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_one_short_file(package: str) -> None:
    assert len((EXAMPLES / package / f"{package}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize("package", PACKAGES)
def test_the_guide_shows_it_as_it_is(package: str) -> None:
    guide = (EXAMPLES.parent / "docs" / "how-to" / "extend.md").read_text()
    code = (EXAMPLES / package / f"{package}.py").read_text()
    assert f'```python title="{package}.py"\n{code}```\n' in guide


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_listed(package: str, installed: Path, tmp_path: Path) -> None:
    kind, name, path, description = PACKAGES[package]
    listed = circuitkit(installed, "list", kind, cwd=tmp_path)
    assert name in listed
    assert path in listed
    assert description in " ".join(listed.split())


def test_the_commands_in_their_docstrings_run(installed: Path, tmp_path: Path) -> None:
    for package in PACKAGES.keys() - {"my_family"}:  # which needs a model of its own
        text = (EXAMPLES / package / f"{package}.py").read_text()
        (command,) = [line for line in text.splitlines() if line.startswith("circuitkit discover")]
        circuitkit(installed, *command.split()[1:], "--examples", "4", "--out", package, cwd=tmp_path)
        config = yaml.safe_load((tmp_path / package / "config.yaml").read_text())
        assert PACKAGES[package][2] in str(config)


@pytest.mark.parametrize("package", PACKAGES)
def test_they_keep_their_contracts(package: str, installed: Path, tmp_path: Path) -> None:
    """By name, once installed; what a newcomer sees."""
    shown = circuitkit(installed, "check", PACKAGES[package][1], cwd=tmp_path).splitlines()
    assert {line[:16].strip() for line in shown[:-1]} <= {"passed", "not applicable"}
    assert shown[-1].startswith(f"{sum(line.startswith('passed') for line in shown)} passed")


def test_a_model_of_the_new_family_is_loaded_and_searched(installed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Starcoder2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
    Starcoder2ForCausalLM(config).save_pretrained(tmp_path / "starcoder")
    tokenizer.save_pretrained(tmp_path / "starcoder")
    arguments = "discover --model starcoder --task ioi --strategy eap --examples 8 --out run"
    assert "eap on ioi, in starcoder" in circuitkit(installed, *arguments.split(), cwd=tmp_path)


def test_all_run_together(installed: Path, tmp_path: Path) -> None:
    arguments = "--task repeated_names --strategy late_layers --precision half_outputs --objective margin --examples 8"
    shown = circuitkit(installed, "discover", "--model", "toy", *arguments.split(), "--out", "run", cwd=tmp_path)
    assert "faithfulness" in shown.lower()


def test_it_runs_in_a_comparison(installed: Path, tmp_path: Path) -> None:
    strategies = "{eap: eap, late: late_layers, early: {class_path: late_layers, init_args: {decay: 1.0, keep: 0.5}}}"
    shown = circuitkit(
        installed, "compare", "--strategies", strategies, "--examples", "8", "--out", "cmp", cwd=tmp_path
    )
    assert "late" in shown
    assert "early" in shown
    rows = list(csv.DictReader((tmp_path / "cmp" / "results.csv").open()))
    assert not any(row["error"] for row in rows)
    sizes = {row["strategy"]: int(row["edges_asked"]) for row in rows if row["ranking"] == "own"}
    assert sizes == {"late": 26, "early": 131}
