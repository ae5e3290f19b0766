"""Makes the table of docs/pahq.md: ACDC under each precision beside full-precision ACDC.

Run: python tools/pahq_table.py [--model smollm2-135m] [--prompts 4] [--objective logit_difference] [--thresholds 0.3]
     [--variants ...] [--save rows.jsonl]

For every threshold one full-precision search, and one for every variant. Beside each other: edges kept, Jaccard of
the kept edges, faithfulness of both circuits on 32 held-out prompts, ROC AUC of the scores against full precision's
circuit, tests repeated in full precision, and quantiles of the error of an effect: |effect - full precision's| over all
tests of the full-precision search, the circuit edited by *its* decisions throughout, so that one is compared with one.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitkit import CircuitModel, PromptBatch, specs
from circuitkit.circuit import Origin
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

    def faithfulness(self, kept: Tensor) -> float:
        """On held-out prompts, in full precision."""
        return self.evaluator.faithfulness(self.evaluator.value(kept)) or 0.0

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
        "faithfulness": bench.faithfulness(search.kept),
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
        row |= {f"error_{share}": float(errors.quantile(share)) for share in (0.5, 0.99, 1.0)}
    return row


def main() -> None:
    known = variants()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4])
    parser.add_argument("--objective", default="logit_difference")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.2])
    parser.add_argument("--variants", nargs="+", default=list(known), help="names, or the beginnings of names")
    parser.add_argument("--save", type=Path, default=None, help="append rows to a file, a JSON object a line")
    arguments = parser.parse_args()
    model = CircuitModel.from_pretrained(arguments.model)
    model.model.requires_grad_(False)
    chosen = [name for name in known if any(name.startswith(wanted) for wanted in arguments.variants)]
    for prompts in arguments.prompts:
        bench = Bench(model, arguments.objective, prompts)
        for threshold in arguments.thresholds:
            setting = {"model": arguments.model, "prompts": prompts, "objective": arguments.objective}
            setting["threshold"] = threshold
            full, seconds = bench.search(FullPrecision(), threshold)
            row = {"variant": "full", "edges": int(full.kept.sum()), "faithfulness": bench.faithfulness(full.kept)}
            rows = [{**row, "tests": full.tests, "seconds": seconds, "smallest_gap": full.smallest_gap}]
            for row in rows:
                _print({**setting, **row}, arguments.save)
            for name in chosen:
                _print({**setting, **compared(bench, full, name, variants()[name])}, arguments.save)


def _print(row: dict[str, Any], save: Path | None) -> None:
    line = json.dumps({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
    print(line, flush=True)
    if save is not None:
        with save.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
