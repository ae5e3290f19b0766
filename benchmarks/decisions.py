"""What an edge test costs, by both editors, in a search with committed decisions.

Run: python benchmarks/decisions.py [--readers 6] [--smoke]

The shape of GPT-2 small (random weights, seed 0) on 4 prompts of 15 random tokens. `data/gpt2_decisions.json` says
which of the 32,491 edges an incremental search kept there. The search goes from the last layer to the first, so every
layer is timed with the decisions of the layers after it in place. Some readers of every block are opened, and their
tests are timed by the incremental and by the replay editor. All versions of the package time the same tests, so their
figures can be compared. The last line is one JSON object: `test_in_forwards` and `replay_in_forwards` (mean over the
tests of the whole search, relative to one plain transformers forward pass of the same batch in the same run),
`speedup`, `search_s` (of the incremental editor, summed up from the timed readers), `edges`, `tests`.
"""

import argparse
import json
from pathlib import Path

import torch
from kept_edges import from_text
from timing import forward_seconds
from transformers import GPT2Config, GPT2LMHeadModel

from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.cost_estimate import cost, spread_layers, time_tests
from circuitkit.models.circuit_model import CircuitModel

DATA = Path(__file__).parent / "data" / "gpt2_decisions.json"
PROMPTS, LENGTH = 4, 15


def prepare_batch() -> PreparedBatch:
    """Make the model and the prompts of the committed search."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    hf.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(hf.config.vocab_size, (2, PROMPTS, LENGTH), generator=generator)
    answers, wrong = torch.randint(hf.config.vocab_size, (2, PROMPTS), generator=generator)
    batch = PromptBatch.from_ids(clean, corrupted, answers, wrong)
    return PreparedBatch(CircuitModel.from_model(hf), batch, LogitDifference(), Resample())


def measure(readers: int, layers: int) -> dict[str, float]:
    """Time both editors on the committed decisions, in `layers` layers and at most `readers` readers of each block."""
    prepared = prepare_batch()
    graph, forward = prepared.model.graph, forward_seconds(prepared.model, prepared.batch)
    kept = from_text(json.loads(DATA.read_text())["kept"], len(graph))
    where = spread_layers(graph, layers)
    incremental = cost(graph, kept, time_tests(IncrementalEditor([prepared]), kept, where, readers, 16))
    replay = cost(graph, kept, time_tests(ReplayEditor([prepared]), kept, where, readers, 1, gradients=False))
    return {
        "forward_s": forward,
        "search_s": incremental.seconds,
        "test_in_forwards": incremental.seconds / incremental.tests / forward,
        "replay_in_forwards": 2 * replay.value_s / forward,  # a single test takes two values
        "speedup": 2 * replay.value_s * incremental.tests / incremental.seconds,
        "tests": incremental.tests,
        "edges": int(kept.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=6, help="the largest number to time in each block")
    parser.add_argument(
        "--smoke", action="store_true", help="check that the script runs: two layers with one reader each"
    )
    arguments = parser.parse_args()
    figures = measure(1, 2) if arguments.smoke else measure(arguments.readers, 12)
    print(json.dumps({name: round(value, 5) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
