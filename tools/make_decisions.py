"""Make the decisions that `benchmarks/decisions.py` replays: `benchmarks/data/gpt2_decisions.json`.

    python tools/make_decisions.py [--share 0.02]

ACDC with the absolute criterion, on random weights in the shape of GPT-2 small. The threshold is a quantile of the
absolute first-order effects in the full model: a fraction `--share` of all edges is above it. By default about 300
edges are kept, which takes some minutes on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from decisions import DATA, LENGTH, PROMPTS, prepare_batch
from kept_edges import to_text

from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.search.greedy import GreedySearch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--share",
        type=float,
        default=0.02,
        help="the fraction of edges whose first-order effect is above the threshold",
    )
    arguments = parser.parse_args()
    prepared = prepare_batch()
    effects = attribute(prepared).abs().double() / PROMPTS
    threshold = float(f"{effects.quantile(1 - arguments.share):.3g}")

    def report(search: GreedySearch) -> None:
        decided, kept = int(search.decided.sum()), int((search.kept & search.decided).sum())
        print(f"{decided:,} edges decided, {kept:,} kept, {search.tests:,} tested", file=sys.stderr, flush=True)

    search = GreedySearch(IncrementalEditor([prepared]), threshold, absolute=True, on_reader_end=report)
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
