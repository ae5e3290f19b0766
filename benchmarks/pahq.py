"""What PAHQ saves: time and peak memory of ACDC by editor and by precision, each against unaccelerated ACDC.

Run: python benchmarks/pahq.py [--quick] [--smoke] [--prompts 4]

SmolLM2-135M on IOI (template 0, corruption abc), logit difference, signed threshold 0.3. Unaccelerated ACDC is the
replay editor in full precision: one masked run per test, from the open reader's layer on. One thing changes at a time:
the editor (replay or incremental), or the precision (full, int8, nf4; attention, or attention and MLPs).

- Incremental searches are run whole. The time of a replay search is the mean time of tests drawn evenly from those that
  the full-precision search tested, in the circuit that it ended with, times the number of tests.
- Every variant has a process of its own. Its peak is the largest resident size while searching, beyond that of the
  interpreter with its libraries; loading the model and preparing the policy are reported separately.

The last line is one JSON object: by variant `time_s`, `time_reduction`, `peak_mb`, `memory_reduction`, `weights_mb`,
`load_s`, `load_peak_mb`, `jaccard` with full precision's circuit, and the counts of rechecks in full precision.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fetched
import torch
from timing import Peak

VARIANTS: dict[str, dict[str, Any]] = {
    "replay": {"editor": "replay"},
    "incremental": {},
    "replay_int8": {"editor": "replay", "mode": "int8"},
    "replay_nf4": {"editor": "replay", "mode": "nf4"},
    "replay_int8_mlp": {"editor": "replay", "mode": "int8", "scope": "attention+mlp"},
    "replay_nf4_mlp": {"editor": "replay", "mode": "nf4", "scope": "attention+mlp"},
    "incremental_int8": {"mode": "int8"},
    "incremental_nf4": {"mode": "nf4"},
    "incremental_int8_mlp": {"mode": "int8", "scope": "attention+mlp"},
    "incremental_nf4_mlp": {"mode": "nf4", "scope": "attention+mlp"},
    "incremental_int8_published": {"mode": "int8", "anchor": False},
}
QUICK = ["replay", "incremental", "incremental_int8", "replay_nf4_mlp", "incremental_nf4_mlp"]
THRESHOLD = 0.3


def child(variant: dict[str, Any], prompts: int, samples: int, reference: Path) -> dict[str, Any]:
    """Run one variant in this process; the first (incremental, full precision) saves its decisions in `reference`."""
    # Imported before the start, since libraries that are imported late are no part of the search
    import bitsandbytes  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.models.llama.tokenization_llama  # noqa: F401

    from circuitkit import CircuitModel
    from circuitkit.circuit.score_source import ScoreSource
    from circuitkit.data.objectives import LogitDifference
    from circuitkit.engine.ablation import Resample
    from circuitkit.engine.prepared_batch import PreparedBatch
    from circuitkit.engine.search.greedy import GreedySearch
    from circuitkit.precision.base import FullPrecision
    from circuitkit.precision.pahq import PAHQ
    from circuitkit.strategies.discovery import EDITORS
    from circuitkit.tasks.ioi import IOI

    editor = EDITORS[variant.pop("editor", "incremental")]
    policy = PAHQ(**variant) if variant else FullPrecision()
    with Peak() as peak:
        started = time.perf_counter()
        model = CircuitModel.from_pretrained("smollm2-135m")
        model.model.requires_grad_(False)
        batch = IOI(template=0).prompts(model.tokenizer, "train", prompts, 0)
        policy.prepare(model)
        load_s, load_peak = time.perf_counter() - started, peak.so_far()
        peak.restart()
        prepared = PreparedBatch(model, batch, LogitDifference(), Resample(), policy)
        started = time.perf_counter()
        if editor is EDITORS["replay"]:
            decisions = torch.load(reference, weights_only=True)
            figures = replay_figures(editor([prepared], decisions["kept"]), decisions["tested"], samples)
        else:
            search = GreedySearch(editor([prepared]), THRESHOLD)
            search.run()
            figures = {"time_s": time.perf_counter() - started, "tests": search.tests, "edges": int(search.kept.sum())}
            if search.rechecks is not None:
                figures |= search.rechecks.counts() | search.rechecks.report()
            if not reference.exists():
                tested = search.score_sources.eq(ScoreSource.TESTED).nonzero()[:, 0]
                torch.save({"kept": search.kept, "tested": tested}, reference)
            full = torch.load(reference, weights_only=True)["kept"]
            figures["jaccard"] = float((search.kept & full).sum() / (search.kept | full).sum())
        figures |= {"peak_mb": peak.so_far(), "load_s": load_s, "load_peak_mb": load_peak}
        figures["weights_mb"] = weights_mb(model, policy.footprint())
        policy.close()
    return figures


def replay_figures(editor: Any, tested: torch.Tensor, samples: int) -> dict[str, Any]:
    """Estimate the time of a whole search by replay from a sample of its tests."""
    graph, seconds = editor.graph, 0.0
    chosen = tested[torch.linspace(0, len(tested) - 1, samples).long()].tolist()
    for edge in reversed(chosen):
        reader = int(graph.reader_of[edge])
        editor.open(reader)
        removal = torch.zeros(1, graph.prefix(reader), dtype=torch.bool)
        removal[0, graph.writer_of[edge]] = True
        started = time.perf_counter()
        editor.values(removal)
        seconds += time.perf_counter() - started
    return {"time_s": seconds / samples * len(tested), "tests": len(tested), "sampled": samples}


def weights_mb(model: Any, footprint: dict[str, int]) -> float:
    """Return the size of the weights in memory: the model's own, or what the policy reports."""
    full = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    return (footprint["high"] + footprint["low"] if footprint else full) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, with 20 tests by replay each")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="check that the script runs: only incremental, in full precision and in int8",
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--child", nargs=2, metavar=("VARIANT", "REFERENCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    fetched.require("smollm2-135m")
    samples = 20 if arguments.quick else 60
    if arguments.child:
        name, reference = arguments.child
        print(json.dumps(child(dict(VARIANTS[name]), arguments.prompts, samples, Path(reference))))
        return
    chosen = ["incremental", "incremental_int8"] if arguments.smoke else QUICK if arguments.quick else list(VARIANTS)
    chosen.sort(key=lambda name: name != "incremental")  # the others are compared with its decisions
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            options = ["--prompts", str(arguments.prompts), "--child", name, str(Path(folder) / "reference.pt")]
            options += ["--quick"] if arguments.quick else []
            ran = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
            results[name] = json.loads(ran.stdout.splitlines()[-1])
            if name == "replay" or "replay" in results:
                base = results["replay"]
                for one in results.values():
                    one["time_reduction"] = 1 - one["time_s"] / base["time_s"]
                    one["memory_reduction"] = 1 - one["peak_mb"] / base["peak_mb"]
            print(name, json.dumps({key: round(value, 4) for key, value in results[name].items()}), flush=True)
    keys = sorted({key for one in results.values() for key in one})
    print(json.dumps({key: {n: round(one[key], 5) for n, one in results.items() if key in one} for key in keys}))


if __name__ == "__main__":
    main()
