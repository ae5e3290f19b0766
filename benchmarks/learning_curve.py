"""How much better a circuit does on the prompts where it was found than on others, over the number of prompts.

Run: python benchmarks/learning_curve.py --out FOLDER [--methods ...] [--prompts 4 16 64] [--seeds 0 1] [--smoke]

SmolLM2-135M (fetched before), IOI in the KL divergence, ablation resample: template 0 with each number of prompts and
each seed, and all templates with the largest number and the first seed. Every circuit is evaluated on the prompts where
it was found, and on 64 test prompts. Training methods take exactly these prompts (`prompts=N`), not more.

Every point is a run folder in FOLDER. Started again, the script reads the finished points, and continues the
interrupted one. The whole grid takes hours. Trainings take 300 steps of 8 prompts, or of 4 where there are only 4; the
search from a proposal starts from the same point's edge pruning. The last line is one JSON object: `points`, a list
with `method`, `templates`, `prompts`, `seed`, `seconds` of the processor (of one thread, since other processes may run
beside; with those of the proposal; null if they are not known), `peak_mb`, `own` and `sizes`; of each size
`fraction` asked for, `edges`, and faithfulness on both in the KL divergence (`found`, `held_out`) and in the logit
difference (`found_ld`, `held_out_ld`).
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import fetched
import torch
from timing import Seconds

from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Point
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result

STEPS, BATCH = 300, 8
SIZES = [0.003, 0.005, 0.01, 0.02, 0.05]
TEST = 64
FROM_PROPOSAL = "acdc from edge_pruning"


def training(name: str, prompts: int, steps: int, **arguments: Any) -> dict[str, Any]:
    """Describe a method that trains on exactly these prompts."""
    own = {"prompts": prompts, "batch_size": min(BATCH, prompts), "trainer": {"max_steps": steps}}
    return {"class_path": name, "init_args": {**own, **arguments}}


def methods(prompts: int, steps: int, proposal: Path) -> dict[str, Any]:
    """Return every method's specification for a number of prompts; `proposal`: the run folder of edge pruning."""
    pruning = training("edge_pruning", prompts, steps, target=0.98)
    search = {"threshold": 0.02, "screen": 0.5}
    return {
        "eap_ig": "eap_ig",
        "matryoshka": training("matryoshka", prompts, steps),
        "edge_pruning": pruning,
        "annealed_pruning": training("annealed_pruning", prompts, steps, target=0.9973),
        "acdc": {"class_path": "acdc", "init_args": search},
        FROM_PROPOSAL: {
            "class_path": "acdc",
            "init_args": {**search, "threshold": 0.004, "start": str(proposal), "start_size": 0.02},
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
        "peak_mb": round(result.metrics["peak_mb"]),
        "own": next(iter(rows["own"]), None),
        "sizes": rows["absolute"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(methods(1, 1, Path()))
    parser.add_argument("--out", type=Path, help="the folder of the run folders")
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--prompts", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--smoke", action="store_true", help="check that the script runs: toy model, 2 prompts, 2 steps"
    )
    options = parser.parse_args()
    if options.smoke:
        options.prompts, options.seeds = [2], [0]
        with tempfile.TemporaryDirectory() as folder:
            run_points(CircuitModel.from_pretrained("toy"), options, Path(folder), 2, 2)
    elif options.out is None:
        parser.error("--out is missing: the folder to continue from")
    else:
        fetched.require("smollm2-135m")
        torch.set_num_threads(1)
        run_points(CircuitModel.from_pretrained("smollm2-135m"), options, options.out, STEPS, TEST)


def run_points(model: CircuitModel, options: argparse.Namespace, folder: Path, steps: int, test: int) -> None:
    """Run and print every point that was asked for."""
    grid: list[tuple[int | None, int, int]] = [(0, *pair) for pair in itertools.product(options.prompts, options.seeds)]
    grid += [] if options.smoke else [(None, max(options.prompts), options.seeds[0])]
    points, seconds = [], Seconds(folder)
    for (template, prompts, seed), method in itertools.product(grid, options.methods):
        templates = "all" if template is None else str(template)
        cell = f"{templates}_{prompts}_{seed}"
        label, proposal = f"{method} {cell}".replace(" ", "_"), f"edge_pruning_{cell}"
        result = Discoverer(seed=seed, callbacks=[seconds]).run(
            model,
            {"class_path": "ioi", "init_args": {"template": template}},
            methods(prompts, steps, folder / proposal)[method],
            objective="kl",
            examples=[prompts, test, test],
            sizes=SIZES,
            rankings=["absolute"],
            out=folder / label,
            resume=True,
        )
        spent = seconds.of(label, *([proposal] if method == FROM_PROPOSAL else []))
        point = {"method": method, "templates": templates, "prompts": prompts, "seed": seed, "seconds": spent}
        points.append({**point, **summarize(result)})
        print(json.dumps(points[-1]), flush=True)
    print(json.dumps({"points": points}))


if __name__ == "__main__":
    try:
        main()
    except CircuitKitError as error:
        raise SystemExit(str(error)) from error
