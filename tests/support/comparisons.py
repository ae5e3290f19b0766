"""Folders of comparisons that no computation has made: rows of a real one, under other labels."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from circuitkit.storage.text import to_yaml

METHODS = [f"method_{letter}" for letter in "abcdefghij"]


def make_large(source: Path, out: Path, groups: Sequence[int] = (10, 10), seeds: int = 1) -> Path:
    """Make a comparison of 10 methods on each of some models and tasks.

    Args:
        source: a comparison whose cells lend rows and run folders.
        out: the new folder.
        groups: the numbers of models and of tasks.
        seeds: the number of seeds.
    """
    rows = pd.read_parquet(source / "results.parquet")
    rows = rows[(rows["error"] == "") & (rows["seed"] == rows["seed"].min())]
    cells = [cell for _, cell in rows.groupby("folder", sort=False)]
    labels: dict[str, Sequence[Any]] = {
        "model": [f"model_{number}" for number in range(groups[0])],
        "task": [f"task_{number}" for number in range(groups[1])],
        "strategy": METHODS,
        "seed": range(seeds),
    }
    made = []
    for number, chosen in enumerate(itertools.product(*labels.values())):
        values = dict(zip(labels, chosen, strict=True))
        folder = "cells/" + "-".join(map(str, chosen))
        lender = cells[number % len(cells)]
        shutil.copytree(source / lender["folder"].iloc[0], out / folder)
        made.append(lender.assign(**values, precision="full", folder=folder))
    pd.concat(made).to_parquet(out / "results.parquet", index=False)
    config = {
        **{f"{name}s": {one: {"name": one} for one in labels[name]} for name in ("model", "task")},
        "strategies": {name: {"class_path": f"somewhere.{name}"} for name in METHODS},
        "precision": {"full": {"class_path": "circuitkit.precision.base.FullPrecision"}},
        "objectives": {"logit_difference": {"class_path": "circuitkit.data.objectives.LogitDifference"}},
        "seeds": list(range(seeds)),
        "include": [],
        "exclude": [{"strategies": "random control"}],
        "overrides": [],
    }
    (out / "config.yaml").write_text(to_yaml(config))
    return out
