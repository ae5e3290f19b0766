"""A comparison in which every text that may come from outside tries to be more than text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from circuitkit.circuit.circuit import Circuit
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.run.result import Result
from circuitkit.storage.text import read_yaml, to_yaml

RUN = "window.hacked=1"
HOSTILE = (
    f"</script><script>{RUN}</script><!--<script>",
    f"<img src=x onerror='{RUN}'><svg onload={RUN}>\"'>",
    f'</style></title></textarea></select></svg><iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"javascript:{RUN} [x](javascript:{RUN}) ![x](http://example.invalid/x.png) <http://example.invalid>",
    "[bold red]{{ 7*7 }}{% raw %} ${7*7} datum['x'] \\u003cb\\u003e &lt;b&gt; [/]",
    '=HYPERLINK("http://example.invalid","x") +1+1 -1 @SUM(1) | `x` *y* _z_',
    "__proto__ constructor \u202e \u2028 \0 👩🏽‍🔬 " + "w" * 120,
)
"""HTML, scripts, templates, Markdown, rich's markup, a spreadsheet's formulas, and what cannot be seen or broken."""
FIELDS = ("model", "task", "strategy", "precision", "objective")


def make_hostile(folder: Path) -> Path:
    """Change the texts of a comparison: labels, notes, errors, files, prompts, answers and circuits."""
    path = folder / "results.parquet"
    frame = pd.read_parquet(path)
    for number, name in enumerate(FIELDS):
        frame[name] = [_spoil(value, number) for value in frame[name]]
    frame["operating_point"] = HOSTILE[5]
    frame["notes"] = HOSTILE[1] + " | " + HOSTILE[4]
    last = frame["folder"] == frame["folder"].iloc[-1]
    failed = frame[last].head(1).assign(seed=77, folder="cells/failed", error="\n".join(HOSTILE))
    pd.concat([frame, failed]).to_parquet(path, index=False)
    _spoil_config(folder / "config.yaml")
    (folder / "conclusions.txt").write_text("\n".join(HOSTILE), encoding="utf-8")
    for name in frame["folder"].unique():
        _spoil_run(folder / name)
    return folder


def _spoil(label: str, number: int) -> str:
    return label if label == CONTROL else f"{label} {HOSTILE[number]}"


def _spoil_config(path: Path) -> None:
    config = read_yaml(path)
    axes = {"models": 0, "tasks": 1, "strategies": 2, "precision": 3, "objectives": 4}
    for axis, number in axes.items():
        if config[axis]:
            config[axis] = {_spoil(label, number): spec for label, spec in config[axis].items()}
    path.write_text(to_yaml(config), encoding="utf-8")


def _spoil_run(folder: Path) -> None:
    result = Result.load(folder)
    answers = result.answers
    prompts = tuple(
        replace(one, clean=(HOSTILE[row % len(HOSTILE)], *one.clean[1:]), answers=((*one.answers[0], *HOSTILE),))
        for row, one in enumerate(answers.prompts)
    )
    full = tuple(replace(one, top=(HOSTILE[row % len(HOSTILE)], *one.top[1:])) for row, one in enumerate(answers.full))
    changed: dict[str, Any] = {
        "answers": replace(answers, prompts=prompts, full=full),
        "circuits": [_rename(circuit, number) for number, circuit in enumerate(result.circuits)],
        "environment": result.environment | {"cpu": HOSTILE[0]},
        "history": [row | {HOSTILE[1]: 1.0} for row in result.history],
    }
    replace(result, **changed).save(folder, overwrite=True)


def _rename(circuit: Circuit, number: int) -> Circuit:
    return Circuit(circuit.graph, circuit.scores, circuit.kept, circuit.score_sources, HOSTILE[number] + HOSTILE[5])
