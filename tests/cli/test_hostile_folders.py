"""Run folders that others damaged or made up: each is refused in one line, by `evaluate` and `Result.load`."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from circuitkit.cli.main import main
from circuitkit.errors import CircuitKitError
from circuitkit.run.result import Result

RESULT, CONFIG, CIRCUIT, TENSORS = "result.json", "config.yaml", "circuit.json", "circuit.safetensors"
PROMPTS, ANSWERS = "prompts.parquet", "answers.parquet"
NEEDED = (RESULT, CONFIG, CIRCUIT, TENSORS, PROMPTS)  # folders of earlier versions have no answers
Damage = Callable[[Path], None]

CONTENT = {
    "empty": b"",
    "NUL bytes": b"\x00" * 100,
    "bytes that are no text": b"\xff\xfe\x80abc",
    "deep lists": b"[" * 100_000,
    "deep mappings": b'{"a":' * 100_000,
    "null": b"null",
    "a list": b"[1, 2]",
    "a text": b'"text"',
    "something else": b'{"a": {"b": [1]}}',
    "a surrogate": b'{"version": 1, "notes": ["\\ud800"]}',
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def halve(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: -len(name) * 3]) and None


def folder_in_its_place(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def edit(name: str, path: str, value: Any = ...) -> Damage:
    """Replace an entry, given as `a.0.b`; without a value, delete it."""

    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        found = yaml.safe_load(text) if name == CONFIG else json.loads(text)
        *above, last = (int(key) if key.isdigit() else key for key in path.split("."))
        inner: Any = found
        for key in above:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        (folder / name).write_text(yaml.safe_dump(found) if name == CONFIG else json.dumps(found))

    return damage


def tensors(**changed: torch.Tensor | None) -> Damage:
    """Replace tensors, with the right hash."""

    def damage(folder: Path) -> None:
        import hashlib

        found = safetensors.torch.load_file(folder / TENSORS) | changed
        data = safetensors.torch.save({key: tensor for key, tensor in found.items() if tensor is not None})
        (folder / TENSORS).write_bytes(data)
        edit(CIRCUIT, "sha256", hashlib.sha256(data).hexdigest())(folder)

    return damage


def folders() -> Iterator[tuple[str, Damage]]:
    yield from ((f"{name} is missing", remove(name)) for name in NEEDED)
    for name in (*NEEDED, ANSWERS):
        yield f"{name} is a folder", folder_in_its_place(name)
        if name != CONFIG:  # half of a mapping may be one
            yield f"{name} is cut off", halve(name)
        for what, content in CONTENT.items():
            yield f"{name} holds {what}", write(name, content)
    yield "metrics.csv is a folder", folder_in_its_place("metrics.csv")
    yield "metrics.csv is no text", write("metrics.csv", b"\xff\xfe\x80abc")
    yield "metrics.csv has long rows", write("metrics.csv", b"a,b\n1,2,3\n")
    yield "metrics.csv has a huge field", write("metrics.csv", b"a\n" + b"x" * 200_000)
    for path, values in {
        "version": (1, 3, "2", True, None, 1e400),
        "circuits": (..., None, [], [1], {}, [{}], [{"file": 1}], [{"file": "../circuit"}], [{"file": "other"}]),
        "metrics": (..., None, [1], {"wall_s": "long"}, {"peak_mb": [1]}, {"edges_tested": {}}, {"wall_s": 10**400}),
        "evaluations": (..., None, [1], {"test": 1}, {"test": [{}]}, {"test": [{"points": 1}]}),
        "evaluations.test": ([], 5 * [{}]),
        "evaluations.test.0.points": (..., None, [], [1], [{}], [{"ranking": "own"}]),
        "evaluations.test.0.points.0.measures": (..., "much", [], {}, {"kl": 1}, {"kl": {"value": 1}}),
        "evaluations.test.0.points.0.measures.kl.value": (..., {"value": "much"}, True),
        "evaluations.test.0.points.0.measures.kl.value.value": (..., "much", [], True, 10**400, 1e400),
        "evaluations.test.0.points.0.measures.kl.faithfulness.low": (..., "much", True),
        "evaluations.test.0.points.0.edges_asked": (None, 1.5, "ten"),
        "evaluations.test.0.full": (..., "low", {}, {"kl": 1}),
        "evaluations.test.0.areas": (..., "low", {"signed": 1}, {"signed": {"cpr": 1}}),
        "evaluations.test.0.prompts": (..., 0, -1, 10**9, "all"),
        "evaluations.test.0.notes": ("text", [1]),
        "evaluations.test.0.templates": (..., "text", [1]),
        "environment": (..., None, "here"),
        "notes": (..., None, "text", [1]),
    }.items():
        for value in values:
            yield f"{RESULT}: {path} = {repr(value)[:40]}", edit(RESULT, path, value)
    for path, values in {
        "model": (..., None, 5, [], "no/such/model", "../here", ""),
        "kv": (..., "heads", None, 3),
        "dtype": (..., "float33", None, "int8"),
        "task": (..., None, "text", [], {}, {"class_path": 1}, {"class_path": "ii"}, {"class_path": "os.system"}),
        "objective": (..., {"class_path": "circuitkit.tasks.ioi.IOI"}, {"class_path": "."}, {"class_path": "a..b"}),
        "ablation": (..., {"class_path": "resample", "init_args": [1]}, {"class_path": "resample", "more": 1}),
        "task.init_args": ({"corruption": "none"}, {"unknown": 1}, "text", {"corruption": {"a": 1}}),
        "examples": (..., 0, -1, "many", 1.5, True, None),
        "seed": (..., -1, "one", 2**40, None),
        "strategy": (..., None, []),
        "precision": (..., 7),
    }.items():
        for value in values:
            yield f"{CONFIG}: {path} = {repr(value)[:40]}", edit(CONFIG, path, value)
    for path, values in {
        "version": (..., 2, True, None),
        "graph": (..., None, [], {}),
        "graph.layers": (..., 0, -1, 10**9, "3", 2.0),
        "graph.kv": ("heads", 1),
        "selection": (..., 1),
        "tie": (..., "no"),
        "sha256": (..., 1, "0"),
        "more": (1,),
    }.items():
        for value in values:
            yield f"{CIRCUIT}: {path} = {repr(value)[:40]}", edit(CIRCUIT, path, value)
    edges = 262
    yield "no scores", tensors(scores=None)
    yield "more tensors", tensors(more=torch.zeros(1))
    yield "scores that are NaN", tensors(scores=torch.full((edges,), torch.nan, dtype=torch.float64))
    yield "scores of another type", tensors(scores=torch.zeros(edges, dtype=torch.int64))
    yield "scores of another length", tensors(scores=torch.zeros(edges - 1, dtype=torch.float64))
    yield "scores of another shape", tensors(scores=torch.zeros(edges, 1, dtype=torch.float64))
    yield "an unknown source", tensors(origin=torch.full((edges,), 99, dtype=torch.int8))
    yield "no edges", tensors(**dict.fromkeys(("scores", "kept", "origin"), torch.zeros(0)))


FOLDERS = dict(folders())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    command = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]
    assert main([*command, "--out", str(folder)]) == 0
    return folder


def test_there_are_a_hundred() -> None:
    assert len(FOLDERS) >= 100


@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_is_refused_in_one_line(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    FOLDERS[case](folder)
    assert main(["evaluate", str(folder), "--sizes", "[0.5, 1.0]"]) in (1, 2)
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert errors.startswith("circuitkit: ")
    assert errors.count("\n") == 1, errors
    assert len(errors) < 600
    with suppress(CircuitKitError):  # a result whose config names what cannot be had is one
        print(Result.load(folder))


def test_a_whole_folder_is_evaluated(run: Path) -> None:
    assert main(["evaluate", str(run), "--sizes", "[0.5, 1.0]"]) == 0
