"""What racing saves, and how many decisions it takes otherwise than a search on all prompts.

Run: python benchmarks/racing.py [--prompts 128] [--first 16] [--z 2] [--threshold 0.02] [--edges 1413] [--screen S]
                                 [--smoke]

SmolLM2-135M on IOI template 0, KL divergence, from a starting circuit: the best `--edges` edges (2%) by EAP in the
logit difference. Three searches: on the first stage's prompts, on all prompts, and raced.

Decisions are compared one by one: in the search on all prompts, the effects of every test are kept prompt by prompt,
and each decision is taken again as a race would, in the same circuit. So a wrong decision is not counted again in those
that follow from it. With `--screen`, groups are not compared in this way.

`seconds` are of the processor, since other processes may run beside. The last line is one JSON object: for each search
`seconds`, `tests` of single edges and `edges` kept; `ratio`, the time of the race relative to that of the search on the
first stage's prompts, and `ratio_per_test`, the same relative to the tests (one may lose readers sooner, with all edges
into them, which then need no test);
`prompts_per_decision`; `otherwise`, the share of decisions that a race takes otherwise, and
`otherwise_on_first_stage`, the share that the first stage's prompts alone would; `edges_differ`, how many edges are in
one of the circuits of the race and of the search on all prompts, but not in both; and what the audit found.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import fetched
import torch
from torch import Tensor

from circuitkit import CircuitModel
from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.engine.search.items import Item
from circuitkit.engine.search.measurement import Margin, Measurement
from circuitkit.engine.search.racing import Race, stages, standard_errors, summarize
from circuitkit.tasks.ioi import IOI


class Recorded(Measurement):
    """Measures on all prompts, and keeps the effects of single edges, prompt by prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.effects_by_prompt: list[Tensor] = []

    def run(self, rows: Tensor, before: list[int], items: list[Item], margins: Sequence[Margin]) -> int:
        by_prompt = self._editor.values_by_prompt(torch.cat([torch.zeros_like(rows[:1]), rows]))
        self._batch = [by_prompt[row + 1] - by_prompt[base] for row, base in enumerate(before)]
        self._items = items
        self._effects = [
            float(effects.mean()) - (float(self._estimates[item.writers].sum()) if item.joint else 0.0)
            for effects, item in zip(self._batch, items, strict=True)
        ]
        return len(by_prompt)

    def settle(self, number: int, progress: float) -> float:
        if not self._items[number].joint:
            self.effects_by_prompt.append(self._batch[number])
        return super().settle(number, progress)


class Bench:
    """The searches of one setting.

    Args:
        model: under test.
        batch: all prompts.
        kept: the starting circuit.
        options: of the command line.
    """

    def __init__(self, model: CircuitModel, batch: PromptBatch, kept: Tensor, options: argparse.Namespace) -> None:
        self._model, self._batch, self._kept, self._options = model, batch, kept, options
        self.totals = stages(len(batch), options.first)

    def _editor(self, start: int, stop: int) -> IncrementalEditor:
        prepared = PreparedBatch(self._model, self._batch[start:stop], KLDivergence(), Resample())
        return IncrementalEditor([prepared], self._kept)

    def stage(self, _layer: int, stage: int) -> IncrementalEditor:
        """Make the editor of a stage of a race."""
        return self._editor(self.totals[stage - 1] if stage else 0, self.totals[stage])

    def search(self, prompts: int, measurement: Measurement) -> tuple[GreedySearch, float]:
        """Search; return the search and its seconds."""
        started = time.process_time()
        search = GreedySearch(
            self._editor(0, prompts), self._options.threshold, screen=self._options.screen, measurement=measurement
        )
        search.run()
        return search, time.process_time() - started

    def race_again(self, effects: Tensor) -> dict[str, float]:
        """Take the decisions of a search on all prompts as a race would.

        Args:
            effects: of its tests, `[tests, prompts]`.
        """
        threshold, undecided = self._options.threshold, torch.ones(len(effects), dtype=torch.bool)
        right = effects.mean(1) < threshold
        otherwise, used = 0, 0
        for total in self.totals:
            sample = effects[:, :total]
            errors = standard_errors(sample, len(self._batch), threshold)
            clear = undecided & ((sample.mean(1) - threshold).abs() > self._options.z * errors)
            decided = undecided if total == self.totals[-1] else clear
            otherwise += int(((sample.mean(1) < threshold) != right)[decided].sum())
            used += total * int(decided.sum())
            undecided = undecided & ~decided
        first = (effects[:, : self.totals[0]].mean(1) < threshold) != right
        return {
            "decisions": len(effects),
            "prompts_per_decision": round(used / len(effects), 1),
            "otherwise": round(otherwise / len(effects), 5),
            "otherwise_on_first_stage": round(float(first.double().mean()), 5),
        }


def best_edges(model: CircuitModel, batch: PromptBatch, count: int) -> Tensor:
    """Return the best edges by EAP in the logit difference, grown from the logits."""
    scores = attribute(PreparedBatch(model, batch, LogitDifference(), Resample()))
    return Circuit.from_scores(model.graph, scores).greedy(count).kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--first", type=int, default=16)
    parser.add_argument("--z", type=float, default=2.0)
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--edges", type=int, default=1413)
    parser.add_argument("--screen", type=float)
    parser.add_argument("--smoke", action="store_true", help="check that the script runs, on the toy model")
    options = parser.parse_args()
    if options.smoke:
        options.prompts, options.first, options.edges = 16, 4, 200
    else:
        fetched.require("smollm2-135m")
    torch.set_num_threads(1)  # idle threads that spin would count
    model = CircuitModel.from_pretrained("toy" if options.smoke else "smollm2-135m")
    model.model.requires_grad_(False)
    batch = IOI(template=0, corruption="abc").prompts(model.tokenizer, "train", options.prompts, 0)
    kept = best_edges(model, batch, options.edges)  # not by the first stage, which would be no random sample for them
    bench = Bench(model, batch, kept, options)
    result: dict[str, Any] = {"seconds": {}, "tests": {}, "edges": {}}

    def run(name: str, prompts: int, measurement: Measurement) -> GreedySearch:
        search, seconds = bench.search(prompts, measurement)
        figures = {"seconds": round(seconds, 1), "tests": search.tests, "edges": int(search.kept.sum())}
        for figure, value in figures.items():
            result[figure][name] = value
        print(f"{name}: {seconds:.1f} s, {search.tests:,} edges tested, {int(search.kept.sum()):,} kept", flush=True)
        return search

    race = Race(options.z, bench.totals, bench.stage, fresh=False)
    run("first stage", options.first, Measurement())
    raced = run("raced", options.first, race)
    result["ratio"] = round(result["seconds"]["raced"] / result["seconds"]["first stage"], 2)
    fewer = result["tests"]["first stage"] / result["tests"]["raced"]
    result["ratio_per_test"] = round(result["ratio"] * fewer, 2)
    result["race"] = {name: round(value, 4) for name, value in {**race.counts(), **summarize(race.counts())}.items()}
    print(json.dumps(result), flush=True)  # before the longest search
    whole = run("all prompts", options.prompts, recorded := Recorded())
    result |= bench.race_again(torch.stack(recorded.effects_by_prompt))
    result["edges_differ"] = int((raced.kept ^ whole.kept).sum())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
