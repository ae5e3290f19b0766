"""Make the decisions that `benchmarks/decisions.py` replays: `benchmarks/data/gpt2_decisions.json`.

    python tools/make_decisions.py [--share 0.02]

ACDC with the absolute criterion on random weights of GPT-2 small's shape. The threshold is a quantile of the sizes of
first-order effects in the full model: `--share` of all edges are above it. By default some 300 edges are kept, which
takes some minutes on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from decisions import DATA, LENGTH, PROMPTS, make_scene
from kept_edges import to_text

from circuitkit.engine.attribution import attribute
from circuitkit.engine.greedy import Search
from circuitkit.engine.incremental import IncrementalEditor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.02, help="of the edges, above the threshold at first order")
    arguments = parser.parse_args()
    scene = make_scene()
    effects = attribute(scene).abs().double() / PROMPTS
    threshold = float(f"{effects.quantile(1 - arguments.share):.3g}")

    def report(search: Search) -> None:
        decided, kept = int(search.decided.sum()), int((search.kept & search.decided).sum())
        print(f"{decided:,} edges decided, {kept:,} kept, {search.tests:,} tested", file=sys.stderr, flush=True)

    search = Search(IncrementalEditor([scene]), threshold, absolute=True, on_reader_end=report)
    search.run()
    found = {
        "model": "GPT-2 small's shape, random weights, seed 0",
        "prompts": f"{PROMPTS} of {LENGTH} random tokens, seed 0",
        "search": f"logit difference, absolute, threshold {threshold:g}",
        "edges": len(search.kept),
        "kept_edges": int(search.kept.sum()),
        "tests": search.tests,
        "kept": to_text(search.kept),
    }
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
