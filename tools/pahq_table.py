"""Makes the tables of docs/pahq.md: ACDC under each precision beside full-precision ACDC.

Run: python tools/pahq_table.py [--model smollm2-135m] [--prompts 4] [--objective logit_difference] [--thresholds 0.3]
     [--variants ...] [--save rows.jsonl]
     python tools/pahq_table.py --show rows.jsonl

For every threshold one full-precision search, and one for every variant. Beside each other: edges kept, Jaccard of
the kept edges; faithfulness on 32 held-out prompts, of the circuit and of as many edges as full precision keeps, by
score; ROC AUC of the scores against full precision's circuit; tests repeated in full precision, and quantiles of the
error of an effect: |effect - full precision's| over all tests of the full-precision search, the circuit edited by *its*
decisions throughout, so that one is compared with one. Printed are a JSON object for each search, and in the end, or
with `--show` from a file of such objects, the tables in Markdown.
"""

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitkit import CircuitModel, PromptBatch, specs
from circuitkit.circuit import Circuit, Origin
from circuitkit.engine.ablation import Resample
from circuitkit.engine.greedy import Search, visits
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.scene import make_scenes
from circuitkit.evaluation import Evaluator
from circuitkit.precision.per_head import PerHeadQuantization, UniformQuantization
from circuitkit.precision.policy import FullPrecision, PrecisionPolicy
from circuitkit.tasks.ioi import IOI

SCOPES = {"attention": "attention", "both": "attention+mlp"}
AT_ONCE = 128
QUANTILES = (0.5, 0.99, 1.0)
SETTING = ("model", "prompts", "objective", "threshold")


def variants() -> dict[str, PrecisionPolicy]:
    """All policies of the table by name."""
    found: dict[str, PrecisionPolicy] = {}
    for mode in ("int8", "nf4"):
        for short, scope in SCOPES.items():
            found[f"{mode} {short} settled"] = PerHeadQuantization(mode, scope)
            found[f"{mode} {short} anchored"] = PerHeadQuantization(mode, scope, settle_doubts=False)
            found[f"{mode} {short} published"] = PerHeadQuantization(mode, scope, anchor=False)
            found[f"{mode} {short} uniform"] = UniformQuantization(mode, scope)
    return found


class Bench:
    """A model, its prompts and an objective; searches under any policy."""

    def __init__(self, model: CircuitModel, objective: str, prompts: int) -> None:
        task = IOI(template=0)
        self.model, self.objective = model, specs.make("objectives", objective)
        self.batch = task.prompts(model.tokenizer, "train", prompts, 0)
        self.evaluator = Evaluator(self._scenes(task.prompts(model.tokenizer, "test", 32, 0)), "test")

    def _scenes(self, batch: PromptBatch, policy: PrecisionPolicy | None = None) -> list[Any]:
        return make_scenes(self.model, [batch], self.objective, Resample(), policy)

    def faithful(self, search: Search, size: int) -> dict[str, float]:
        """Faithfulness on held-out prompts, in full precision: of the circuit found, and of the best edges by score."""
        best = Circuit.from_scores(self.model.graph, search.scores).top(size, absolute=search.absolute)
        values = {"faithfulness": search.kept, "faithfulness_at_size": best.kept}
        return {name: self.evaluator.faithfulness(self.evaluator.value(kept)) or 0.0 for name, kept in values.items()}

    def search(self, policy: PrecisionPolicy, threshold: float) -> tuple[Search, float]:
        """A search and its seconds."""
        policy.prepare(self.model)
        try:
            started = time.perf_counter()
            search = Search(IncrementalEditor(self._scenes(self.batch, policy)), threshold)
            search.run()
            return search, time.perf_counter() - started
        finally:
            policy.close()

    def effects(self, policy: PrecisionPolicy, reference: Search) -> Tensor:
        """The effect of every edge that a search tested, the circuit edited by that search's decisions."""
        policy.prepare(self.model)
        try:
            return self._followed(IncrementalEditor(self._scenes(self.batch, policy)), reference)
        finally:
            policy.close()

    def _followed(self, editor: IncrementalEditor, reference: Search) -> Tensor:
        graph = editor.graph
        effects = torch.full((len(graph),), torch.nan, dtype=torch.float64)
        tested = reference.origin == Origin.TESTED
        heads = [list(reversed(range(graph.heads)))] * graph.layers
        for reader, _ in visits(graph, heads, try_whole_reader=False):
            edges = graph.edges(reader)
            writers = tested[edges].nonzero()[:, 0].flip(0)
            if not len(writers):
                continue
            editor.open(reader)
            for part in writers.split(AT_ONCE):
                gone = ~reference.kept[edges][part]
                rows = torch.zeros(len(part), edges.stop - edges.start, dtype=torch.bool)
                before, last = [], 0
                for row, writer in enumerate(part.tolist()):
                    before.append(last)
                    rows[row] = rows[last - 1] if last else False
                    rows[row, writer] = True
                    last = row + 1 if gone[row] else last
                values = editor.values(rows)
                effects[edges.start + part] = values[1:] - values[before]
                committed = torch.zeros_like(rows[0])
                committed[part[gone]] = True
                editor.commit(committed)
        return effects


def auc(scores: Tensor, members: Tensor) -> float:
    """ROC AUC of scores as a classifier of members: the probability that a member outranks another, ties by half."""
    _, inverse, counts = np.unique(scores.numpy(), return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    ranks = (ends - (counts - 1) / 2)[inverse]
    inside, number = members.numpy(), int(members.sum())
    return float((ranks[inside].sum() - number * (number + 1) / 2) / (number * (len(inside) - number)))


def compared(bench: Bench, full: Search, name: str, policy: PrecisionPolicy) -> dict[str, Any]:
    """A row of the table."""
    search, seconds = bench.search(policy, full.threshold)
    row: dict[str, Any] = {
        "variant": name,
        "edges": int(search.kept.sum()),
        "jaccard": float((search.kept & full.kept).sum() / (search.kept | full.kept).sum()),
        **bench.faithful(search, int(full.kept.sum())),
        "auc": auc(search.scores, full.kept),
        "seconds": seconds,
        "tests": search.tests,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if search.doubts is not None:
            row |= search.doubts.counted() | search.doubts.report(policy.advice())
    row["warning"] = "; ".join(str(one.message) for one in caught)
    if "settled" not in name:  # anchored effects are the same, settled or not
        errors = (bench.effects(policy, full) - full.scores).abs()
        errors = errors[full.origin == Origin.TESTED]
        row |= {f"error_{share}": float(errors.quantile(share)) for share in QUANTILES}
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for every setting."""
    lines: list[str] = []
    for key, some in itertools.groupby(rows, key=lambda row: [row[name] for name in SETTING]):
        model, prompts, objective, threshold = key
        full, *others = some
        lines += [
            "",
            f"{model}, {prompts} prompts, {objective}, signed {threshold}: full precision keeps {full['edges']} edges "
            f"after {full['tests']:,} tests; faithfulness {full['faithfulness']:.2f}, by score "
            f"{full['faithfulness_at_size']:.2f}.",
            "",
            "| mode, scope | | edges | Jaccard | faithfulness | by score | ROC AUC | repeated (turned) + audited | "
            "error: median | 99% | largest |",
            "|" + "---|" * 11,
        ]
        for row in others:
            mode, scope, kind = row["variant"].split()
            told = [f"{mode}, {SCOPES[scope].replace('+mlp', ' and MLPs')}", kind, str(row["edges"])]
            figures = ("jaccard", "faithfulness", "faithfulness_at_size")
            told += [*(f"{row[name]:.2f}" for name in figures), f"{row['auc']:.4f}", ""]
            if "doubts_repeated" in row:
                repeated, turned, audited = (row[f"doubts_{name}"] for name in ("repeated", "turned", "audited"))
                told[-1] = f"{repeated} ({turned}) + {audited}"
            told += [f"{row[name]:.2g}" if (name := f"error_{share}") in row else "" for share in QUANTILES]
            lines.append("| " + " | ".join(told) + " |")
    return "\n".join(lines)


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All searches, one after another."""
    model = CircuitModel.from_pretrained(arguments.model)
    model.model.requires_grad_(False)
    chosen = [name for name in variants() if any(name.startswith(wanted) for wanted in arguments.variants)]
    for prompts in arguments.prompts:
        bench = Bench(model, arguments.objective, prompts)
        for threshold in arguments.thresholds:
            setting = dict(zip(SETTING, (arguments.model, prompts, arguments.objective, threshold), strict=True))
            full, seconds = bench.search(FullPrecision(), threshold)
            size = int(full.kept.sum())
            counted = {"edges": size, "tests": full.tests, "seconds": seconds, "smallest_gap": full.smallest_gap}
            yield {**setting, "variant": "full", **counted, **bench.faithful(full, size)}
            for name in chosen:
                yield {**setting, **compared(bench, full, name, variants()[name])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4])
    parser.add_argument("--objective", default="logit_difference")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.2])
    parser.add_argument("--variants", nargs="+", default=list(variants()), help="names, or the beginnings of names")
    parser.add_argument("--save", type=Path, default=None, help="append rows to a file, a JSON object a line")
    parser.add_argument("--show", type=Path, default=None, help="search nothing: the tables of such a file")
    arguments = parser.parse_args()
    if arguments.show is not None:
        print(markdown([json.loads(line) for line in arguments.show.read_text().splitlines()]))
        return
    rows = []
    for row in rows_of(arguments):
        rows.append({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
        line = json.dumps(rows[-1])
        print(line, flush=True)
        if arguments.save is not None:
            with arguments.save.open("a") as file:
                file.write(line + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
