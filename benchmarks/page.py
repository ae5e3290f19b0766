"""What the page of a large comparison takes: to write, in size, and to open in Chromium.

Run: python benchmarks/page.py [--rounds N] [--folder DIR] [--smoke]

The comparison has 1,000 cells, 10 models x 10 tasks x 10 methods, with the 26 rows of a cell at MIB's sizes. No
computation has made it: rows, results and answers are those of a small comparison of the toy model, with other numbers,
other words in the prompts, and edges in proportion, so that no two cells are alike and nothing compresses for free. The
24 cells whose results the page loads have distinct circuits of SmolLM2-135M's graph (70,651 edges): rankings, and
circuits of 43 to 2,729 edges; and 64 distinct prompts each.

Aims: under 3 MB, written in under 10 s, opened in under 2 s. The last line is one JSON object: `cells`, `edges`,
`circuits` (in the page); `write_s` and `write_cpu_s`, the first `write_report` of this process; `megabytes` (10**6
bytes) of `report.html`; from the beginning of the navigation, medians of `--rounds` new browser contexts, `load_s`,
until the `load` event, and `circuit_s`, until a reader who goes to the circuits at once sees one; `first_paint_s`;
`missed`, the aims that were missed. Times depend on what else the machine does: `load_average` says how busy it was.
"""

import argparse
import json
import os
import shutil
import statistics
import string
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.runner import compare
from circuitkit.evaluation.answers import Answers, PromptTexts, Reply
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.page.content import choose_shown
from circuitkit.page.page import write_report
from circuitkit.run.result import Result
from circuitkit.storage.text import to_yaml

AIMS = {"megabytes": 3.0, "write_s": 10.0, "load_s": 2.0, "circuit_s": 2.0}
SMOLLM2 = EdgeGraph(30, 9, 3)
SIZES = (43, 120, 414, 1000, 2729)
RESULTS = 24
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


class Varied:
    """Makes values like others, but not the same."""

    def __init__(self, seed: int, of: int, edges: int) -> None:
        self.random = np.random.default_rng(seed)
        self.factor = edges / of

    def edges(self, count: int) -> int:
        return round(count * self.factor)

    def word(self) -> str:
        letters = self.random.choice(list(string.ascii_lowercase), self.random.integers(3, 9))
        return " " + "".join(letters)

    def rows(self, lender: pd.DataFrame) -> pd.DataFrame:
        found = lender.copy()
        for name in found.columns:
            if name in ("edges", "edges_asked"):
                found[name] = [self.edges(value) for value in found[name]]
            elif name in ("wall_s", "peak_mb", "evaluation_s", "forward_equivalents"):  # of the cell: one value
                found[name] *= self.random.uniform(0.5, 2)
            elif pd.api.types.is_float_dtype(found[name].dtype) and name != "fraction":
                found[name] += self.random.normal(0, 0.05, len(found))
        return found

    def point(self, point: Point) -> Point:
        return replace(point, edges=self.edges(point.edges), edges_asked=self.edges(point.edges_asked))

    def evaluation(self, found: Evaluation) -> Evaluation:
        values = {name: array + self.random.normal(0, 0.01, array.shape) for name, array in found.values.items()}
        kept = {name: array for name, array in found.values.items() if name == "accuracy"}
        return replace(found, points=[self.point(point) for point in found.points], values=values | kept)

    def prompt(self, prompt: PromptTexts) -> PromptTexts:
        new = {text: self.word() for text in set(prompt.clean) if self.random.random() < 0.7}
        clean, corrupted = ([new.get(text, text) for text in texts] for texts in (prompt.clean, prompt.corrupted))
        return replace(prompt, clean=tuple(clean), corrupted=tuple(corrupted))

    def reply(self, reply: Reply) -> Reply:
        top = (*reply.top[:2], *(self.word() for _ in reply.top[2:]))
        return replace(reply, top=top, top_probabilities=tuple(-np.sort(-self.random.dirichlet(np.ones(len(top))))))

    def answers(self, found: Answers) -> Answers:
        circuits = [
            replace(one, edges=self.edges(one.edges), replies=tuple(map(self.reply, one.replies)))
            for one in found.circuits
        ]
        prompts, full = tuple(map(self.prompt, found.prompts)), tuple(map(self.reply, found.full))
        return replace(found, prompts=prompts, full=full, circuits=tuple(circuits))

    def circuit(self, graph: EdgeGraph, size: int | None) -> Circuit:
        scores = torch.from_numpy(self.random.standard_t(2, len(graph)))
        ranking = Circuit.from_scores(graph, scores)
        return ranking if size is None else ranking.top(min(size, len(graph)), absolute=True)


def make_result(lender: Result, varied: Varied, graph: EdgeGraph, number: int) -> Result:
    """Make a result of one circuit: every other one a ranking, if the lender's is."""
    size = None if lender.circuit.is_ranking else SIZES[number % len(SIZES)]
    answers = varied.answers(lender.answers)
    evaluations = {split: [varied.evaluation(found[0])] for split, found in lender.evaluations.items()}
    return replace(
        lender,
        circuits=[varied.circuit(graph, size)],
        evaluations=evaluations,
        answers=replace(answers, circuits=answers.circuits[:1]),
    )


def make_comparison(out: Path, source: Path, graph: EdgeGraph, groups: Sequence[int]) -> None:
    """Make the folder of 10 methods on each of some models and tasks; run folders only of the results that are read."""
    rows = pd.read_parquet(source / "results.parquet")
    cells = [cell for _, cell in rows.groupby("folder", sort=False)]
    results = [Result.load(source / str(cell["folder"].iloc[0])) for cell in cells]
    models, tasks = (
        [f"model {number}" for number in range(groups[0])],
        [f"task {number}" for number in range(groups[1])],
    )
    methods = [f"method {letter}" for letter in string.ascii_lowercase[:10]]
    made, lenders = [], {}
    for number, (model, task, method) in enumerate(product(models, tasks, methods)):
        lender = number % len(cells)
        folder = f"cells/{number}"
        labels: dict[str, Any] = {
            "model": model,
            "task": task,
            "strategy": method,
            "precision": "full",
            "seed": 0,
            "folder": folder,
        }
        varied = Varied(number, len(results[lender].circuit.graph), len(graph))
        made.append(varied.rows(cells[lender]).assign(**labels, prompts_test_hash=f"{number:016x}"))
        lenders[folder] = (results[lender], varied)
    frame = pd.concat(made)
    frame.to_parquet(out / "results.parquet", index=False)
    for number, folder in enumerate(choose_shown(frame)[:RESULTS]):
        lent, varied = lenders[folder]
        make_result(lent, varied, graph, number).save(out / folder)
    config = {
        "models": {name: {"name": name} for name in models},
        "tasks": {name: {"class_path": f"somewhere.{name}"} for name in tasks},
        "strategies": {name: {"class_path": f"somewhere.{name}"} for name in methods},
        "precision": {"full": {"class_path": "circuitkit.precision.base.FullPrecision"}},
        "objectives": {"logit_difference": {"class_path": "circuitkit.data.objectives.LogitDifference"}},
        "seeds": [0],
        "include": [],
        "exclude": [{"strategies": "random control"}],
        "overrides": [],
    }
    (out / "config.yaml").write_text(to_yaml(config))


def make_source(out: Path, examples: int) -> None:
    """Compare two methods and the random control on the toy model."""
    strategies: dict[str, Any] = {"eap": "eap", "acdc": {"class_path": "acdc", "init_args": {"threshold": 0.03}}}
    compare(Grid(models={"toy": "toy"}, tasks={"ioi": "ioi"}, strategies=strategies, examples=examples), out)


def open_page(path: Path, rounds: int) -> dict[str, float]:
    """Open a page in new contexts of one browser; return the medians in seconds."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("CIRCUITKIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise SystemExit("There is no Chromium: install one, or set CIRCUITKIT_CHROMIUM.")
    found: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for _ in range(rounds + 1):  # the first is a warm-up
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(path.as_uri())
            found.append(page.evaluate(WATCH))
            page.close()
        browser.close()
    return {name: round(statistics.median(one[name] for one in found[1:]) / 1000, 3) for name in found[0]}


WATCH = """async () => {
  const viewer = document.getElementById("circuit-viewer");
  viewer.scrollIntoView({ behavior: "instant" });
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  while (!viewer.dataset.drawn) await frame();
  await frame();
  await frame();  // the one before is on the screen
  const [navigation] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return { first_paint_s: paint.startTime, load_s: navigation.loadEventEnd, circuit_s: performance.now() };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the comparison and its page in this new folder")
    parser.add_argument("--smoke", action="store_true", help="check that it runs: one round, 10 cells")
    arguments = parser.parse_args()
    graph, groups, examples = (EdgeGraph(4, 3, 1), (1, 1), 4) if arguments.smoke else (SMOLLM2, (10, 10), 64)
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "source", arguments.folder or Path(temporary) / "out"
        make_source(source, examples)
        out.mkdir(parents=True)
        make_comparison(out, source, graph, groups)
        print("The comparison is made.", flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        page = write_report(out)[0].resolve()
        result: dict[str, Any] = {
            "cells": groups[0] * groups[1] * 10,
            "edges": len(graph),
            "write_s": round(time.perf_counter() - wall, 2),
            "write_cpu_s": round(time.process_time() - cpu, 2),
            "megabytes": round(page.stat().st_size / 1e6, 2),
        }
        print(f"The page is written: {result['megabytes']} MB in {result['write_s']} s.", flush=True)
        result |= open_page(page, 1 if arguments.smoke else arguments.rounds)
    result["missed"] = [name for name, most in AIMS.items() if result[name] >= most]
    result["load_average"] = round(os.getloadavg()[0], 2)
    for name, most in AIMS.items():
        print(f"{name}: {result[name]}, aim: under {most:g}{', missed' if name in result['missed'] else ''}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
