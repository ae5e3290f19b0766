"""How much better a circuit does on the prompts where it was found than on others, over the number of prompts.

Run: python benchmarks/learning_curve.py --out FOLDER [--methods ...] [--prompts 4 16 64] [--seeds 0 1] [--smoke]

SmolLM2-135M (fetched before), IOI in the KL divergence, ablation resample: template 0 with each number of prompts and
each seed, and all templates with the largest number and the first seed. Every circuit is evaluated on the prompts where
it was found, and on 64 test prompts. Training methods take exactly these prompts (`prompts=N`), not more.

Every point is a run folder in FOLDER. Started again, the script reads the finished points, and continues the
interrupted one. The whole grid takes hours. Trainings take 300 steps of 8 prompts, or of 4 where there are only 4. The
last line is one JSON object: `points`, a list with `method`, `templates`, `prompts`, `seed`, `seconds`, `peak_mb`,
`own` and `sizes`; of each size `fraction` asked for, `edges`, and faithfulness on both in the KL divergence (`found`,
`held_out`) and in the logit difference (`found_ld`, `held_out_ld`).
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import fetched
import torch

from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Point
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result

STEPS, BATCH = 300, 8
SIZES = [0.003, 0.005, 0.01, 0.02, 0.05]
TEST = 64


def training(name: str, prompts: int, steps: int, **arguments: Any) -> dict[str, Any]:
    """Describe a method that trains on exactly these prompts."""
    own = {"prompts": prompts, "batch_size": min(BATCH, prompts), "trainer": {"max_steps": steps}}
    return {"class_path": name, "init_args": {**own, **arguments}}


def methods(prompts: int, steps: int) -> dict[str, Any]:
    """Return every method's specification for a number of prompts."""
    pruning = training("edge_pruning", prompts, steps, target=0.98)
    search = {"threshold": 0.02, "screen": 0.5}
    return {
        "eap_ig": "eap_ig",
        "matryoshka": training("matryoshka", prompts, steps),
        "edge_pruning": pruning,
        "annealed_pruning": training("annealed_pruning", prompts, steps, target=0.9973),
        "acdc": {"class_path": "acdc", "init_args": search},
        "acdc from edge_pruning": {
            "class_path": "acdc",
            "init_args": {**search, "threshold": 0.004, "start": pruning, "start_size": 0.02},
        },
    }


def describe(point: Point, held_out: Point) -> dict[str, Any]:
    """Return one circuit's figures on the prompts where it was found, and on the others."""
    found: dict[str, Any] = {"fraction": point.fraction, "edges": point.edges}
    for name, one in (("found", point), ("held_out", held_out)):
        for ending, measure in (("", "kl"), ("_ld", "logit_difference")):
            figure = one.measures[measure].faithfulness
            value = None if figure is None else figure.value
            found[name + ending] = None if value is None else round(value, 3)
    return found


def summarize(result: Result) -> dict[str, Any]:
    """Return the figures of a run."""
    train, test = (result.evaluations[split][0] for split in ("train", "test"))
    rows = {
        ranking: [describe(*pair) for pair in zip(train.curve(ranking), test.curve(ranking), strict=True)]
        for ranking in ("own", "absolute")
    }
    return {
        "seconds": round(result.metrics["wall_s"], 1),
        "peak_mb": round(result.metrics["peak_mb"]),
        "own": next(iter(rows["own"]), None),
        "sizes": rows["absolute"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of the run folders")
    parser.add_argument("--methods", nargs="+", default=list(methods(1, 1)), choices=list(methods(1, 1)))
    parser.add_argument("--prompts", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--smoke", action="store_true", help="check that the script runs: toy model, 2 prompts, 2 steps"
    )
    arguments = parser.parse_args()
    name, steps, out = "smollm2-135m", STEPS, arguments.out
    if arguments.smoke:
        name, steps, out, arguments.prompts, arguments.seeds = "toy", 2, None, [2], [0]
    elif out is None:
        parser.error("--out is missing: the folder to continue from")
    else:
        fetched.require(name)
    torch.set_num_threads(1)
    model = CircuitModel.from_pretrained(name)
    most, first = max(arguments.prompts), arguments.seeds[0]
    grid = [(0, *pair) for pair in itertools.product(arguments.prompts, arguments.seeds)] + [(None, most, first)]
    points = []
    for (template, prompts, seed), method in itertools.product(grid, arguments.methods):
        if arguments.smoke and template is None:
            continue
        label = f"{method} {'all' if template is None else template} {prompts} {seed}".replace(" ", "_")
        result = Discoverer(seed=seed, callbacks=[]).run(
            model,
            {"class_path": "ioi", "init_args": {"template": template}},
            methods(prompts, steps)[method],
            objective="kl",
            examples=[prompts, TEST if not arguments.smoke else 2, TEST if not arguments.smoke else 2],
            sizes=SIZES,
            rankings=["absolute"],
            out=None if out is None else out / label,
            resume=out is not None,
        )
        found = {"method": method, "templates": "all" if template is None else str(template), "prompts": prompts}
        points.append({**found, "seed": seed, **summarize(result)})
        print(json.dumps(points[-1]), flush=True)
    print(json.dumps({"points": points}))


if __name__ == "__main__":
    try:
        main()
    except CircuitKitError as error:
        raise SystemExit(str(error)) from error
