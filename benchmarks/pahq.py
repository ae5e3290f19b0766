"""What PAHQ saves: time and peak memory of ACDC by editor and by precision, each against unaccelerated ACDC.

Run: python benchmarks/pahq.py [--quick] [--smoke] [--prompts 4]

SmolLM2-135M on IOI (template 0, corruption abc), logit difference, signed threshold 0.3. Unaccelerated ACDC is the
replay editor in full precision: one masked run, from the open reader's layer on, a test. One thing changes at a time:
the editor (replay or incremental), or the precision (none, int8, nf4; attention, or attention and MLPs).

- Incremental searches are run whole. Replay searches take the mean of tests drawn evenly from those that the
  full-precision search tested, in the circuit as it stood at its end, times the number of tests.
- Every setting has a process of its own. Its peak is the largest resident size while searching, beyond that of the
  interpreter with its libraries; loading the model and preparing the policy is reported apart.

The last line is one JSON object: by setting `time_s`, `time_reduction`, `peak_mb`, `memory_reduction`, `weights_mb`,
`load_s`, `load_peak_mb`, `jaccard` with full precision's circuit, and what was repeated in full precision.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import Peak

SETTINGS: dict[str, dict[str, Any]] = {
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


def child(setting: dict[str, Any], prompts: int, samples: int, reference: Path) -> dict[str, Any]:
    """One setting, in this process; the first one (incremental, full precision) leaves its decisions in `reference`."""
    # Libraries that are imported late are part of what the interpreter holds
    import bitsandbytes  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.models.llama.tokenization_llama  # noqa: F401

    from circuitkit import CircuitModel
    from circuitkit.engine.ablation import Resample
    from circuitkit.engine.greedy import Search
    from circuitkit.engine.scene import Scene
    from circuitkit.objective import LogitDifference
    from circuitkit.precision.per_head import PerHeadQuantization
    from circuitkit.precision.policy import FullPrecision
    from circuitkit.strategies.base import EDITORS
    from circuitkit.tasks.ioi import IOI

    editor = EDITORS[setting.pop("editor", "incremental")]
    policy = PerHeadQuantization(**setting) if setting else FullPrecision()
    with Peak() as peak:
        started = time.perf_counter()
        model = CircuitModel.from_pretrained("smollm2-135m")
        model.model.requires_grad_(False)
        batch = IOI(template=0).prompts(model.tokenizer, "train", prompts, 0)
        policy.prepare(model)
        load_s, load_peak = time.perf_counter() - started, peak.so_far()
        peak.restart()
        scene = Scene(model, batch, LogitDifference(), Resample(), policy)
        started = time.perf_counter()
        if editor is EDITORS["replay"]:
            known = torch.load(reference, weights_only=True)
            figures = replayed(editor([scene], known["kept"]), known["tested"], samples)
        else:
            search = Search(editor([scene]), THRESHOLD)
            search.run()
            figures = {"time_s": time.perf_counter() - started, "tests": search.tests, "edges": int(search.kept.sum())}
            if search.doubts is not None:
                figures |= search.doubts.counted() | search.doubts.report(policy.advice())
            if not reference.exists():
                torch.save({"kept": search.kept, "tested": search.origin.eq(1).nonzero()[:, 0]}, reference)
            both = torch.load(reference, weights_only=True)["kept"]
            figures["jaccard"] = float((search.kept & both).sum() / (search.kept | both).sum())
        figures |= {"peak_mb": peak.so_far(), "load_s": load_s, "load_peak_mb": load_peak}
        figures["weights_mb"] = weights_mb(model, policy.footprint())
        policy.close()
    return figures


def replayed(editor: Any, tested: torch.Tensor, samples: int) -> dict[str, Any]:
    """The time of a whole search by replay, from a sample of its tests."""
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
    """Weights held in memory: full precision's own, or what the policy says."""
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    return (footprint["high"] + footprint["low"] if footprint else whole) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} alone, 20 replayed tests each")
    parser.add_argument("--smoke", action="store_true", help="incremental alone, in full precision and int8")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--child", nargs=2, metavar=("SETTING", "REFERENCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    samples = 20 if arguments.quick else 60
    if arguments.child:
        name, reference = arguments.child
        print(json.dumps(child(dict(SETTINGS[name]), arguments.prompts, samples, Path(reference))))
        return
    chosen = ["incremental", "incremental_int8"] if arguments.smoke else QUICK if arguments.quick else list(SETTINGS)
    chosen.sort(key=lambda name: name != "incremental")  # whose decisions the others are held against
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
