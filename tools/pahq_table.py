"""Make the tables of docs/pahq.md: ACDC at every precision, compared with full-precision ACDC.

    python tools/pahq_table.py [--model smollm2-135m] [--prompts 4] [--objective logit_difference] [--thresholds 0.3]
        [--variants ...] [--save rows.jsonl]
    python tools/pahq_table.py --show rows.jsonl

Needs the extra `tools` (scikit-learn). For every threshold there is one full-precision search, and one for every
variant. They are compared by the edges kept and their Jaccard index; by faithfulness on 32 held-out prompts, of the
circuit and of as many edges as full precision keeps, by score; by ROC AUC of the scores as classifiers of full
precision's circuit; by the decisions rechecked in full precision; and by quantiles of the error of an effect. The error
is |effect - full precision's| over all tests of the full-precision search; both edit the circuit by *its* decisions, so
that every two effects belong to the same circuit. The script prints one JSON object per search and then the tables in
Markdown. With `--show` it makes them from a file of such objects.
"""

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from circuitkit import CircuitModel, PromptBatch
from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import specs
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch, prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.engine.search.visits import visits
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.precision.base import FullPrecision, PrecisionPolicy
from circuitkit.precision.pahq import PAHQ, AllLowPrecision, Scope
from circuitkit.precision.quantization import Mode
from circuitkit.tasks.ioi import IOI

SCOPES: dict[str, Scope] = {"attention": "attention", "both": "attention+mlp"}
MODES: tuple[Mode, ...] = ("int8", "nf4")
AT_ONCE = 128
"""Hypotheses in one call."""
QUANTILES = (0.5, 0.99, 1.0)
SEARCH = ("model", "prompts", "objective", "threshold")
"""The columns that say which full-precision search a row is compared with."""


def variants() -> dict[str, PrecisionPolicy]:
    """Make all policies of the table, by name."""
    found: dict[str, PrecisionPolicy] = {}
    for mode in MODES:
        for short, scope in SCOPES.items():
            found[f"{mode} {short} rechecked"] = PAHQ(mode, scope)
            found[f"{mode} {short} anchored"] = PAHQ(mode, scope, recheck_close=False)
            found[f"{mode} {short} published"] = PAHQ(mode, scope, anchor=False)
            found[f"{mode} {short} all_low"] = AllLowPrecision(mode, scope)
    return found


class Searches:
    """Searches in one model, on one set of prompts and with one objective, under any policy.

    Args:
        model: the model.
        objective: its registered name.
        prompts: how many.
    """

    def __init__(self, model: CircuitModel, objective: str, prompts: int) -> None:
        task = IOI(template=0)
        self.model, self.objective = model, specs.make("objectives", objective)
        self.batch = task.prompts(model.tokenizer, "train", prompts, 0)
        self.evaluator = Evaluator(self._prepare(task.prompts(model.tokenizer, "test", 32, 0)), "test")

    def _prepare(self, batch: PromptBatch, policy: PrecisionPolicy | None = None) -> list[PreparedBatch]:
        return prepare_batches(self.model, [batch], self.objective, Resample(), policy)

    def faithfulness(self, search: GreedySearch, size: int) -> dict[str, float]:
        """Measure faithfulness on held-out prompts, in full precision: of the circuit, and of the best by score."""
        best = Circuit.from_scores(self.model.graph, search.scores).top(size, absolute=search.absolute)
        values = {"faithfulness": search.kept, "faithfulness_at_size": best.kept}
        return {name: self.evaluator.faithfulness(self.evaluator.value(kept)) or 0.0 for name, kept in values.items()}

    def search(self, policy: PrecisionPolicy, threshold: float) -> tuple[GreedySearch, float]:
        """Run a search; return it, and its seconds."""
        policy.prepare(self.model)
        try:
            started = time.perf_counter()
            search = GreedySearch(IncrementalEditor(self._prepare(self.batch, policy)), threshold)
            search.run()
            return search, time.perf_counter() - started
        finally:
            policy.close()

    def effects(self, policy: PrecisionPolicy, reference: GreedySearch) -> Tensor:
        """Compute the effect of every edge that a search tested, editing the circuit by that search's decisions."""
        policy.prepare(self.model)
        try:
            return self._follow(IncrementalEditor(self._prepare(self.batch, policy)), reference)
        finally:
            policy.close()

    def _follow(self, editor: IncrementalEditor, reference: GreedySearch) -> Tensor:
        graph = editor.graph
        effects = torch.full((len(graph),), torch.nan, dtype=torch.float64)
        tested = reference.score_sources == ScoreSource.TESTED
        heads = [list(reversed(range(graph.heads)))] * graph.layers
        for reader, _ in visits(graph, heads, try_whole_reader=False):
            edges = graph.edges(reader)
            writers = tested[edges].nonzero()[:, 0].flip(0)
            if not len(writers):
                continue
            editor.open(reader)
            for part in writers.split(AT_ONCE):
                removed = ~reference.kept[edges][part]
                # Hypothesis j removes the j-th writer, and the writers before it that the search removed
                hypotheses = torch.zeros(len(part), edges.stop - edges.start, dtype=torch.bool)
                before, last = [], 0  # the number of the value before each removal; 0: the circuit as it stands
                for row, writer in enumerate(part.tolist()):
                    before.append(last)
                    hypotheses[row] = hypotheses[last - 1] if last else False
                    hypotheses[row, writer] = True
                    last = row + 1 if removed[row] else last
                values = editor.values(hypotheses)
                effects[edges.start + part] = values[1:] - values[before]
                committed = torch.zeros_like(hypotheses[0])
                committed[part[removed]] = True
                editor.commit(committed)
        return effects


def compare(searches: Searches, full: GreedySearch, name: str, policy: PrecisionPolicy) -> dict[str, Any]:
    """Search with a policy; return a row of the table."""
    search, seconds = searches.search(policy, full.threshold)
    row: dict[str, Any] = {
        "variant": name,
        "edges": int(search.kept.sum()),
        "jaccard": float((search.kept & full.kept).sum() / (search.kept | full.kept).sum()),
        **searches.faithfulness(search, int(full.kept.sum())),
        "auc": float(roc_auc_score(full.kept, search.scores)),
        "seconds": seconds,
        "tests": search.tests,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if search.rechecks is not None:
            row |= search.rechecks.counts() | search.rechecks.report()
    row["warning"] = "; ".join(str(one.message) for one in caught)
    if "rechecked" not in name:  # the effects are those of "anchored", with or without rechecks
        errors = (searches.effects(policy, full) - full.scores).abs()
        errors = errors[full.score_sources == ScoreSource.TESTED]
        row |= {f"error_{share}": float(errors.quantile(share)) for share in QUANTILES}
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """Make one table per full-precision search."""
    lines: list[str] = []
    for key, some in itertools.groupby(rows, key=lambda row: [row[name] for name in SEARCH]):
        model, prompts, objective, threshold = key
        full, *others = some
        lines += [
            "",
            f"{model}, {prompts} prompts, {objective}, signed {threshold}: full precision keeps {full['edges']} edges "
            f"after {full['tests']:,} tests; faithfulness {full['faithfulness']:.2f}, by score "
            f"{full['faithfulness_at_size']:.2f}.",
            "",
            "| mode, scope | | edges | Jaccard | faithfulness | by score | ROC AUC | rechecked (flipped) + audited | "
            "error: median | 99% | largest |",
            "|" + "---|" * 11,
        ]
        for row in others:
            mode, scope, kind = row["variant"].split()
            cells = [f"{mode}, {SCOPES[scope].replace('+mlp', ' and MLPs')}", kind, str(row["edges"])]
            figures = ("jaccard", "faithfulness", "faithfulness_at_size")
            cells += [*(f"{row[name]:.2f}" for name in figures), f"{row['auc']:.4f}", ""]
            if "rechecked" in row:
                cells[-1] = f"{row['rechecked']} ({row['rechecks_flipped']}) + {row['audited']}"
            cells += [f"{row[name]:.2g}" if (name := f"error_{share}") in row else "" for share in QUANTILES]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run all searches, one after another."""
    model = CircuitModel.from_pretrained(arguments.model)
    model.model.requires_grad_(False)
    chosen = [name for name in variants() if any(name.startswith(wanted) for wanted in arguments.variants)]
    for prompts in arguments.prompts:
        searches = Searches(model, arguments.objective, prompts)
        for threshold in arguments.thresholds:
            values = (arguments.model, prompts, arguments.objective, threshold)
            which = dict(zip(SEARCH, values, strict=True))
            full, seconds = searches.search(FullPrecision(), threshold)
            size = int(full.kept.sum())
            counts = {"edges": size, "tests": full.tests, "seconds": seconds, "smallest_gap": full.smallest_gap}
            yield {**which, "variant": "full", **counts, **searches.faithfulness(full, size)}
            for name in chosen:
                yield {**which, **compare(searches, full, name, variants()[name])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4])
    parser.add_argument("--objective", default="logit_difference")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.2])
    parser.add_argument("--variants", nargs="+", default=list(variants()), help="names, or the beginnings of names")
    parser.add_argument(
        "--save", type=Path, default=None, help="a file to append the rows to, one JSON object per line"
    )
    parser.add_argument("--show", type=Path, default=None, help="no search; make the tables of such a file")
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
