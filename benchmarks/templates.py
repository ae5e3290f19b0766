"""On which templates of IOI circuits hold: faithfulness on test prompts, template by template.

Run: python benchmarks/templates.py RUN [RUN ...] [--size 0.01] [--prompts 32] [--smoke]

RUN is a run folder of a search on SmolLM2-135M (fetched before) with seed 0, such as those of `learning_curve.py`. Of a
mere ranking, the circuit of `--size` is measured; otherwise the circuit that the method chose. Ablation resample.

The last line is one JSON object: by template its `text`, the `tokens` of a prompt, and of the circuit of each run
`edges`, faithfulness in the KL divergence (`kl`) with its 95% interval (`kl_low`, `kl_high`), and in the logit
difference (`ld`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import fetched
import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Point
from circuitkit.evaluation.evaluator import evaluate
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.result import Result
from circuitkit.tasks.ioi import IOI, TEMPLATES


def choose(run: Path, size: float) -> Circuit:
    """Return a run's circuit; of a mere ranking, that of a size."""
    found = Result.load(run).circuits[0]
    return found.top(int(size * len(found.graph))).prune() if found.is_ranking else found


def describe(point: Point) -> dict[str, Any]:
    """Return the figures of a circuit on one template."""
    kl, ld = (point.measures[name].faithfulness for name in ("kl", "logit_difference"))
    ends = {} if kl is None else {"kl": kl.value, "kl_low": kl.low, "kl_high": kl.high}
    return {"edges": point.edges, **ends, "ld": ld and ld.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--size", type=float, default=0.01)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: toy model, random scores")
    arguments = parser.parse_args()
    name, templates = "smollm2-135m", range(len(TEMPLATES))
    if arguments.smoke:
        name, templates, arguments.prompts = "toy", range(2), 2
    elif not arguments.runs:
        parser.error("no run folder is given")
    else:
        fetched.require(name)
    model = CircuitModel.from_pretrained(name)
    circuits = {str(run): choose(run, arguments.size) for run in arguments.runs}
    if arguments.smoke:
        scores = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        circuits["random"] = Circuit.from_scores(model.graph, scores).top(len(scores) // 2)
    found = {}
    for template in templates:
        task = IOI(template=template)
        tokens = task.prompts(model.tokenizer, "test", 1, 0).length
        found[template] = {"text": TEMPLATES[template], "tokens": tokens}
        for run, circuit in circuits.items():
            evaluation = evaluate(model, circuit, task, sizes=[], objective="kl", examples=arguments.prompts)
            found[template][run] = describe(evaluation.curve("own")[0])
        print(json.dumps({template: found[template]}), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except CircuitKitError as error:
        raise SystemExit(str(error)) from error
