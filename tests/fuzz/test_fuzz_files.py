"""Files damaged at random: reading one gives what it says, or an error of this package in one line, and nothing else.

`CIRCUITKIT_FUZZ=5000 pytest tests/fuzz` tries that many random ones of each kind.
"""

import contextlib
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.damage import (
    damaged_bytes,
    damaged_json,
    damaged_safetensors,
    damaged_yaml,
    fuzz,
    refusal,
)
from support.graphs import TINY, random_circuit
from support.prompt_rows import row
from transformers import PreTrainedTokenizerBase

from circuitkit import Circuit, Comparison, discover
from circuitkit.circuit.mib_files import read_circuits, write_circuits
from circuitkit.cli.main import main
from circuitkit.comparison.comparison_folder import CELLS, ENVIRONMENT, PARQUET
from circuitkit.comparison.comparison_folder import VERSION as COMPARISON_VERSION
from circuitkit.comparison.grid_arguments import to_grid
from circuitkit.comparison.rows import rows_of, to_frame
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.score_intervals import ScoreIntervals
from circuitkit.models.loading import load_tokenizer
from circuitkit.page.content import Content
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.storage.state import load_state, save_state
from circuitkit.storage.text import read_yaml, to_json
from circuitkit.tasks.prompt_file import PromptFile

GRID = {
    "models": {"toy": "toy"},
    "tasks": {"ioi": "ioi"},
    "strategies": {"a": "acdc", "b": {"class_path": "eap_ig", "init_args": {"steps": 2}}},
    "precision": {"full": "full"},
    "seeds": [0, 1],
    "include": [{"strategies": ["a", "b"], "seeds": 0}],
    "exclude": [{"strategies": "a", "seeds": [1]}],
    "overrides": [{"cells": {"strategies": "a"}, "set": {"examples": 4, "strategy_args": {"threshold": 0.1}}}],
    "examples": [4, 4, 4],
    "sizes": [0.1, 0.5],
    "ablation": {"class_path": "mean"},
    "time_limit": 100,
    "memory_budget": "1GB",
}


TRAINED = {"class_path": "edge_pruning", "init_args": {"target": [0.5], "trainer": {"max_steps": 6}}}
SEARCHED = {"class_path": "acdc", "init_args": {"threshold": [0.05, 0.3]}}


def spoil(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def circuit_files(home: Path) -> dict[str, bytes]:
    random_circuit(TINY).save(home / "circuit")
    return {file.name: file.read_bytes() for file in (home / "circuit").iterdir()}


@fuzz(60)
@given(data=st.data())
def test_circuit_files(data: st.DataObject, home: Path, circuit_files: dict[str, bytes]) -> None:
    """Where the tensors are damaged, their hash is made to fit, as who made the file on purpose would do."""
    folder = home / "circuit"
    described, tensors = circuit_files["circuit.json"], circuit_files["circuit.safetensors"]
    if data.draw(st.booleans()):
        described = data.draw(damaged_json(described))
    else:
        tensors = data.draw(damaged_safetensors(tensors))
        described = json.dumps(json.loads(described) | {"sha256": hashlib.sha256(tensors).hexdigest()}).encode()
    spoil(folder / "circuit.json", described)
    spoil(folder / "circuit.safetensors", tensors)
    refusal(lambda: str(Circuit.load(folder)))


@pytest.mark.parametrize("name", ["eap_top20.json", "eap_top20.pt"])
@fuzz(40)
@given(data=st.data())
def test_files_of_eap_ig(data: st.DataObject, name: str, home: Path) -> None:
    whole = (reference.EAP_IG / name).read_bytes()
    spoil(home / name, data.draw(damaged_json(whole) if name.endswith("json") else damaged_bytes(whole)))
    refusal(lambda: str(Circuit.from_eap_ig(home / name)))


@pytest.fixture(scope="module")
def submission(home: Path) -> Path:
    write_circuits(home / "mib", Circuit.from_scores(TINY, random_circuit(TINY).scores), 24)
    return home / "mib"


@fuzz(30)
@given(data=st.data())
def test_submissions_to_mib(data: st.DataObject, submission: Path) -> None:
    file = data.draw(st.sampled_from(sorted(file for file in submission.rglob("*") if file.is_file())))
    whole = file.read_bytes()
    spoil(file, data.draw(damaged_json(whole) if file.suffix == ".json" else damaged_bytes(whole)))
    refusal(lambda: read_circuits(submission, TINY))
    spoil(file, whole)


@fuzz(60)
@given(data=st.data())
def test_configs_of_comparisons(data: st.DataObject, home: Path) -> None:
    spoil(home / "grid.yaml", data.draw(damaged_yaml(yaml.safe_dump(GRID).encode())))
    refusal(lambda: to_grid(home / "grid.yaml").cells)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    discover("toy", "ioi", "eap", examples=4, sizes=[0.1], out=home / "run")
    return home / "run"


@fuzz(80)
@given(data=st.data())
def test_run_folders(data: st.DataObject, run: Path) -> None:
    file = data.draw(st.sampled_from(sorted(file for file in run.iterdir() if file.is_file())))
    whole = file.read_bytes()
    damage = {".json": damaged_json, ".yaml": damaged_yaml, ".safetensors": damaged_safetensors}
    try:
        spoil(file, data.draw(damage.get(file.suffix, damaged_bytes)(whole)))
        refusal(lambda: str(Result.load(run)))
    finally:
        spoil(file, whole)


@fuzz(40)
@given(data=st.data())
def test_saved_states(data: st.DataObject, home: Path) -> None:
    state = {
        "kept": torch.ones(5, dtype=torch.bool),
        "search": {"at": 3, "scores": [torch.zeros(2, 3, dtype=torch.float64), None], "name": "a"},
    }
    save_state(home / "state.safetensors", state)
    spoil(home / "state.safetensors", data.draw(damaged_safetensors((home / "state.safetensors").read_bytes())))
    refusal(lambda: load_state(home / "state.safetensors"))


@fuzz(30)
@given(data=st.data())
def test_score_intervals(data: st.DataObject, home: Path) -> None:
    edges = ["a", "b", "c"]
    numbers = torch.arange(3, dtype=torch.float64).numpy()
    whole = ScoreIntervals(edges, *[numbers] * 3).to_parquet()
    with_error = refusal_of_value(lambda: ScoreIntervals.from_parquet(data.draw(damaged_bytes(whole)), edges))
    assert with_error is None or "\n" not in with_error


def refusal_of_value(action: Any) -> str | None:
    """As `refusal`, of a reader whose callers name the file."""
    try:
        action()
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def comparison(run: Path, home: Path) -> Path:
    """A comparison of one cell, the run."""
    folder = home / "comparison"
    cell = to_grid({**GRID, "include": None, "exclude": None}).cells[0]
    shutil.copytree(run, folder / CELLS / "run")
    rows = rows_of(cell, f"{CELLS}/run", Result.load(run))
    (folder / PARQUET).write_bytes(to_frame(rows).to_parquet(index=False))
    (folder / "agreement.csv").write_text("model,task\n")
    (folder / "conclusions.txt").write_text("nothing\n")
    (folder / ENVIRONMENT).write_bytes(to_json({"version": COMPARISON_VERSION}))
    (folder / "config.yaml").write_text(yaml.safe_dump(GRID))
    return folder


@fuzz(40)
@given(data=st.data())
def test_folders_of_comparisons(data: st.DataObject, comparison: Path) -> None:
    file = data.draw(st.sampled_from(sorted(file for file in comparison.iterdir() if file.is_file())))
    whole = file.read_bytes()
    damage = {".json": damaged_json, ".yaml": damaged_yaml}
    try:
        spoil(file, data.draw(damage.get(file.suffix, damaged_bytes)(whole)))
        refusal(lambda: str(Comparison.load(comparison)))
        refusal(lambda: Content.load(comparison))
    finally:
        spoil(file, whole)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from circuitkit.models.fetch import TOY

    found = load_tokenizer(str(TOY))
    assert found is not None
    return found


ROWS = [row(number) for number in range(6)]
PROMPTS = {
    "prompts.csv": pd.DataFrame(ROWS).to_csv(index=False).encode(),
    "prompts.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "prompts.json": json.dumps({"prompts": ROWS}).encode(),
}


@pytest.mark.parametrize("name", PROMPTS)
@fuzz(50)
@given(data=st.data())
def test_prompt_files(data: st.DataObject, name: str, home: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    whole = PROMPTS[name]
    spoil(home / name, data.draw(damaged_json(whole) if name.endswith("json") else damaged_bytes(whole)))
    refusal(lambda: PromptFile(home / name).prompts(tokenizer, "train", 4, 0))


@fuzz(30)
@given(data=st.data())
def test_configs_of_runs(data: st.DataObject, run: Path, home: Path) -> None:
    """Up to the point where the model would be loaded."""
    config = read_yaml(run / "config.yaml") | {"strategy": SEARCHED}
    spoil(home / "own.yaml", data.draw(damaged_yaml(yaml.safe_dump(config).encode())))

    def stop(discoverer: Discoverer, model: Any, task: Any, strategy: Any, **options: Any) -> None:
        for name in ("out", "overwrite", "resume"):
            options.pop(name, None)
        discoverer._make_config(model, task, strategy, options)  # type: ignore[arg-type]
        raise CircuitKitError("It is read.", "Go on.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Discoverer, "run", stop)
        patch.setattr(Discoverer, "dry_run", stop)
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            assert main(["discover", "--config", str(home / "own.yaml"), "--out", str(home / "never")]) in (1, 2)
    assert error.getvalue().startswith("circuitkit: ")
    assert error.getvalue().count("\n") == 1, error.getvalue()
    assert not (home / "never").exists()


class Interrupt:
    left = 4

    def on_progress(self, run: Any, done: int, total: int, unit: str, shown: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", params=[SEARCHED, TRAINED], ids=["searched", "trained"])
def interrupted(request: pytest.FixtureRequest, home: Path) -> tuple[Any, Path]:
    """A strategy, and the folder of its interrupted run."""
    folder = home / str(request.param["class_path"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            resume(request.param, folder, Interrupt())
    return request.param, folder


def resume(strategy: Any, folder: Path, *callbacks: Any) -> Result:
    discoverer = Discoverer("cpu", callbacks=callbacks, memory_budget="1GB")
    return discoverer.run("toy", "ioi", strategy, examples=4, sizes=(), out=folder, resume=True)


@fuzz(8)
@given(data=st.data())
def test_checkpoints(data: st.DataObject, interrupted: tuple[Any, Path], home: Path) -> None:
    """A damaged state is refused, or it is one that the run continues from."""
    strategy, made = interrupted
    folder = home / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    file = data.draw(st.sampled_from(sorted(file for file in folder.rglob("*") if file.is_file())))
    damage = {".json": damaged_json, ".yaml": damaged_yaml, ".safetensors": damaged_safetensors}
    spoil(file, data.draw(damage.get(file.suffix, damaged_bytes)(file.read_bytes())))
    refusal(lambda: resume(strategy, folder))
