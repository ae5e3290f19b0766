"""`--trusted_only` and its Python twins: no class is imported but those that installed packages register.

A module that says when it is imported stands where Python finds it, and is named in every way that a config, an option
or an argument can name a class.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import circuitkit
from circuitkit.cli.main import main
from circuitkit.comparison.grid import Grid
from circuitkit.config import specs
from circuitkit.config.trust import trust_registered_only
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies.random_edges import RandomEdges

CODE = """
import pathlib
pathlib.Path("{mark}").touch()
from circuitkit.strategies.random_edges import RandomEdges
class Strategy(RandomEdges): pass
"""
FOREIGN = "named_by_a_config.Strategy"
NESTED = {"class_path": FOREIGN}
INSIDE = {"class_path": "acdc", "init_args": {"start": NESTED}}
DEEP = {"class_path": "stable", "init_args": {"strategy": NESTED}}
MEMBERS = json.dumps({"class_path": "ensemble", "init_args": {"strategies": ["eap", FOREIGN]}})
ESCAPED = f'{{"class\\x5fpath": "{FOREIGN}"}}'
BLOCK = f"a:\n  class_path: acdc\n  init_args:\n    start: {{class_path: {FOREIGN}}}"
LIKE_A_PATH = f"{{class_path: {FOREIGN}}} # /"
OTHER = {"strategies": {"a": FOREIGN}}
FROM_PATH = {"class_path": "acdc", "init_args": {"start": LIKE_A_PATH}}
OVERRIDE = {"cells": {"strategies": "a"}, "set": {"strategy_args": {"start": FOREIGN}}}
DISCOVER = ["discover", "--trusted_only", "--model", "toy", "--task", "ioi", "--examples", "4"]
COMPARE = ["compare", "--trusted_only"]


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the module makes when it is imported."""
    here, packages, file = tmp_path / "here", tmp_path / "packages", tmp_path / "imported"
    here.mkdir()
    packages.mkdir()
    monkeypatch.chdir(here)
    (packages / "named_by_a_config.py").write_text(CODE.format(mark=file))
    monkeypatch.setattr(sys, "path", [str(packages), *sys.path])
    monkeypatch.delitem(sys.modules, "named_by_a_config", raising=False)
    return file


def strategy(**arguments: Any) -> str:
    return json.dumps({"class_path": "acdc", "init_args": arguments})


def config(**entries: Any) -> str:
    return json.dumps({"model": "toy", "task": "ioi", "strategy": "acdc", "examples": 4} | entries)


def grid(**entries: Any) -> dict[str, Any]:
    return {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}, "examples": 4} | entries


COMMANDS = {
    "a class path": [*DISCOVER, "--strategy", FOREIGN],
    "with an equals sign": [*DISCOVER, f"--strategy={FOREIGN}"],
    "a function": [*DISCOVER, "--strategy", "named_by_a_config.main"],
    "a class of an installed package": [*DISCOVER, "--task", "circuitkit.truth.task.ProgramTask"],
    "a mapping": [*DISCOVER, "--strategy", json.dumps(NESTED)],
    "an argument": [*DISCOVER, "--strategy", strategy(start=FOREIGN)],
    "an argument that is a mapping": [*DISCOVER, "--strategy", strategy(start=NESTED)],
    "a list in an argument": [*DISCOVER, "--strategy", MEMBERS],
    "deep inside": [*DISCOVER, "--strategy", strategy(start=DEEP)],
    "an argument with a point in its name": [*DISCOVER, "--strategy", strategy(**{"start.class_path": FOREIGN})],
    "an unknown argument": [*DISCOVER, "--strategy", strategy(begin=NESTED)],
    "an option for an argument": [*DISCOVER, "--strategy", "acdc", "--strategy.start", FOREIGN],
    "an option for an argument, before": [*DISCOVER, "--strategy.start", FOREIGN, "--strategy", "acdc"],
    "an option with an equals sign": [*DISCOVER, "--strategy", "acdc", f"--strategy.start={FOREIGN}"],
    "an option with init_args": [*DISCOVER, "--strategy", "acdc", "--strategy.init_args.start", FOREIGN],
    "an option for the class path": [*DISCOVER, "--strategy", "acdc", "--strategy.class_path", FOREIGN],
    "an option for an inner class path": [*DISCOVER, "--strategy", "acdc", "--strategy.start.class_path", FOREIGN],
    "an option for an inner argument": [
        *DISCOVER,
        "--strategy",
        strategy(start={"class_path": "stable", "init_args": {"strategy": "eap"}}),
        "--strategy.start.strategy",
        FOREIGN,
    ],
    "an option that adds to a list": [*DISCOVER, "--strategy", "ensemble", "--strategy.strategies+", FOREIGN],
    "an option with an escaped key": [*DISCOVER, "--strategy", "acdc", "--strategy.start", ESCAPED],
    "an option in a block": [*DISCOVER, "--strategy", "acdc", "--strategy.start", f"class_path: {FOREIGN}"],
    "an option without its class": [*DISCOVER, "--strategy.start", FOREIGN],
    "an abbreviated option": [*DISCOVER, "--strateg", FOREIGN],
    "the ablation": [*DISCOVER, "--strategy", "eap", "--ablation", FOREIGN],
    "the default ablation's argument": [*DISCOVER, "--strategy", "eap", "--ablation.class_path", FOREIGN],
    "the help of a class": ["discover", "--trusted_only", f"--strategy.help={FOREIGN}"],
    "an argument like a path": [*DISCOVER, "--strategy", strategy(start=LIKE_A_PATH)],
    "an argument like a path, in a block": [*DISCOVER, "--strategy", strategy(start=f"# /\nclass_path: {FOREIGN}")],
    "an argument like a path, inside": [
        *DISCOVER,
        "--strategy",
        json.dumps({"class_path": "stable", "init_args": {"strategy": LIKE_A_PATH}}),
    ],
    "a config in a config": ["discover", "--trusted_only", "--config", config(config=config(strategy=FOREIGN))],
    "a config in a comparison's": [*COMPARE, "--config", json.dumps(grid(config=json.dumps(OTHER)))],
    "a comparison's argument like a path": [*COMPARE, "--config", json.dumps(grid(strategies={"a": FROM_PATH}))],
    "a config": ["discover", "--trusted_only", "--config", config(strategy=FOREIGN)],
    "a config's mapping": ["discover", "--trusted_only", "--config", config(strategy=NESTED)],
    "a config's argument": ["discover", "--config", config(strategy=INSIDE), "--trusted_only"],
    "a config's key with a point": [
        "discover",
        "--trusted_only",
        "--config",
        config(**{"strategy.class_path": FOREIGN}),
    ],
    "a config's option with a point": ["discover", "--trusted_only", "--config", config(**{"strategy.start": FOREIGN})],
    "a config's other entry": ["discover", "--trusted_only", "--config", config(seed=NESTED)],
    "a config that allows all": [
        "discover",
        "--trusted_only",
        "--config",
        config(trusted_only=False, strategy=FOREIGN),
    ],
    "a config that allows all, otherwise": [
        "discover",
        "--trusted-only",
        "--config",
        config(**{"trusted-only": False}),
    ],
    "a comparison's strategy": [*COMPARE, "--config", json.dumps(grid(strategies={"a": FOREIGN}))],
    "a comparison's mapping": [*COMPARE, "--config", json.dumps(grid(strategies={"a": NESTED}))],
    "a comparison's argument": [*COMPARE, "--config", json.dumps(grid(strategies={"a": INSIDE}))],
    "a comparison's ablation": [*COMPARE, "--config", json.dumps(grid(ablation=NESTED))],
    "a comparison's override": [*COMPARE, "--config", json.dumps(grid(strategies={"a": "acdc"}, overrides=[OVERRIDE]))],
    "a comparison's rule": [*COMPARE, "--config", json.dumps(grid(exclude=[{"tasks": NESTED}]))],
    "a comparison's model": [*COMPARE, "--config", json.dumps(grid(models={"a": NESTED}))],
    "a comparison's option": [*COMPARE, "--strategies", json.dumps({"a": INSIDE})],
    "a comparison's option in a block": [*COMPARE, "--strategies", BLOCK],
    "a comparison's option with a point": [*COMPARE, "--strategies.a", FOREIGN],
}


REASONS = (
    "no installed package registers",
    "could name code",
    "Nest it",
    "no class path",
    "Give it on the command line",
    "a --config of its own",
    "no acdc argument",
    "no ACDC argument",
    "cannot be read",
    "no option",
)


@pytest.mark.parametrize("case", COMMANDS)
def test_a_class_that_is_not_registered_is_refused(case: str, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS[case]) == 2
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert errors.startswith("circuitkit: ")
    assert errors.count("\n") == 1
    assert any(reason in errors for reason in REASONS)  # and not because of something else
    assert not mark.exists()
    assert list(Path().iterdir()) == []


def test_a_folder_of_the_name_of_a_class_is_no_way_around(mark: Path) -> None:
    Path(FOREIGN).mkdir()
    for arguments in (
        [*DISCOVER, "--strategy", strategy(start=FOREIGN)],
        [*DISCOVER, "--strategy", "acdc", "--strategy.start", FOREIGN],
    ):
        assert main(arguments) == 2
    with pytest.raises(UsageError, match="no installed package registers"):
        circuitkit.discover(
            "toy", "ioi", {"class_path": "acdc", "init_args": {"start": FOREIGN}}, examples=4, trusted_only=True
        )
    assert not mark.exists()


@pytest.mark.parametrize("entry", ["config: {}", "config: 5", "trusted_only: true", "trusted-only: true"])
@pytest.mark.parametrize("command", ["discover", "compare"])
def test_what_only_the_command_line_says_is_refused_in_a_config(
    command: str, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(f"{entry}\n")
    assert main([command, "--config", "own.yaml"]) == 2
    assert "command line" in (errors := capsys.readouterr()[1]) or "--config of its own" in errors


def test_plain_numbers_in_an_option_of_the_trainer_are_data() -> None:
    spec = json.dumps({"class_path": "annealed_pruning", "init_args": {"trainer": {"max_steps": 1}}})
    assert main([*DISCOVER, "--strategy", spec, "--sizes", "[]", "--out", "run"]) == 0


def test_the_processes_of_a_comparison_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("multiprocessing", "pip"):
        Path(f"{name}.py").write_text('import pathlib; pathlib.Path("here_too").touch()')
    Path("grid.yaml").write_text(yaml.safe_dump(grid(strategies={"a": "random_edges"}, sizes=[0.5])))
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom circuitkit.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    command = [sys.executable, str(script), *COMPARE, "--config", "grid.yaml", "--out", "out"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not Path("here_too").exists()


def test_without_the_option_they_are_imported(mark: Path) -> None:
    """So that the module above is there to import."""
    arguments = [one for one in COMMANDS["an option for an argument"] if one != "--trusted_only"]
    assert main([*arguments, "--out", "run"]) == 0
    assert mark.exists()


def test_what_is_registered_runs(mark: Path) -> None:
    spec = {"class_path": "acdc", "init_args": {"threshold": 0.9, "start": {"class_path": "EAPIG"}, "start_size": 0.05}}
    Path("own.yaml").write_text(config(strategy=spec, ablation="circuitkit.engine.ablation.Zero"))
    arguments = ["--strategy.threshold", "0.25", "--strategy.screen=0.5", "--sizes", "[]", "--out", "run"]
    assert main(["discover", "--config", "own.yaml", "--trusted_only", *arguments]) == 0
    made = yaml.safe_load(Path("run/config.yaml").read_text())
    assert made["strategy"]["init_args"]["threshold"] == 0.25
    assert made["strategy"]["init_args"]["start"]["class_path"].endswith("EAPIG")
    assert made["ablation"]["class_path"].endswith("Zero")
    assert main(["discover", "--config", "run/config.yaml", "--trusted-only", "--out", "again"]) == 0


def test_a_comparison_of_registered_classes_runs_and_its_cells_trust_no_others(
    mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = grid(strategies={"a": "random_edges"}, sizes=[0.5])
    assert all(row["error"] == "" for row in circuitkit.compare(entries, "out", trusted_only=True))
    made = Grid(**grid(strategies={"a": FOREIGN}, sizes=[0.5]))
    mark.unlink()
    with pytest.raises(UsageError, match=r"'named_by_a_config.Strategy'.*leave --trusted_only"):
        circuitkit.compare(made, "again", trusted_only=True)
    assert not Path("again").exists()
    # A grid that was not checked here is refused by the processes of its cells
    monkeypatch.setattr("circuitkit.comparison.runner.to_grid", lambda given: given)
    row = next(iter(circuitkit.compare(made, "again", trusted_only=True)))
    assert "no installed package registers" in row["error"]
    assert not mark.exists()


def test_python_refuses_what_the_commands_refuse(mark: Path) -> None:
    for spec in (FOREIGN, NESTED, {"class_path": "acdc", "init_args": {"start": FOREIGN}}):
        with pytest.raises(UsageError, match="no installed package registers"):
            circuitkit.discover("toy", "ioi", spec, examples=4, trusted_only=True)
        with pytest.raises(UsageError, match="no installed package registers"):
            Discoverer(trusted_only=True).dry_run("toy", "ioi", spec, examples=4)
    inside = {"class_path": "prompt_file", "init_args": NESTED}
    for entries in (grid(strategies={"a": FOREIGN}), grid(tasks={"a": inside})):
        with pytest.raises(UsageError, match="no installed package registers"):
            circuitkit.compare(entries, trusted_only=True)
    assert not mark.exists()
    assert circuitkit.discover("toy", "ioi", RandomEdges(), examples=4, sizes=(), trusted_only=True).circuits
    with pytest.raises(UsageError, match="trusted_only='no' is neither True nor False"):
        circuitkit.discover("toy", "ioi", "eap", trusted_only="no")  # type: ignore[arg-type]


def test_the_restriction_ends_with_its_block() -> None:
    with pytest.raises(UsageError), trust_registered_only(wanted=True):
        specs.make("strategies", FOREIGN)
    assert type(specs.make("strategies", FOREIGN)).__name__ == "Strategy"


def test_nothing_of_the_current_folder_is_registered(tmp_path: Path) -> None:
    """A folder beside a config could hold what looks like an installed package."""
    egg = Path("evil.egg-info")
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (egg / "entry_points.txt").write_text("[circuitkit.strategies]\nevil = evil:Strategy\n")
    Path("evil.py").write_text(CODE.format(mark="here_too"))
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom circuitkit.cli.main import main\nsys.exit(main())\n")
    command = [sys.executable, str(script), *DISCOVER, "--strategy", "evil", "--sizes", "[]", "--out", "run"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no strategy 'evil'" in ran.stderr
    assert not Path("here_too").exists()
