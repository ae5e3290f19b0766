"""What an edge test costs in a search whose decisions are committed, in both editors.

Run: python benchmarks/decisions.py [--readers 6] [--smoke]

GPT-2 small's shape (random weights, seed 0) on 4 prompts of 15 random tokens. `data/gpt2_decisions.json` says which of
the 32,491 edges an incremental search kept there. As that search goes backwards, every layer is met with these
decisions behind it; some readers of every block are opened and their tests timed, by the incremental and by the replay
editor. No version changes what is timed, so that their figures can be compared. The last line is one JSON object:
`test_in_forwards` and `replay_in_forwards` (mean over the tests of the whole search, over one plain transformers
forward of the same batch in the same run), `speedup`, `search_s` (of the incremental editor, summed up from the timed
readers), `edges`, `tests`.
"""

import argparse
import json
from pathlib import Path

import torch
from kept_edges import from_text
from timing import forward_seconds
from transformers import GPT2Config, GPT2LMHeadModel

from circuitkit.engine.ablation import Resample
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import Scene
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import LogitDifference
from circuitkit.preflight import cost, spread_layers, time_tests
from circuitkit.prompts import PromptBatch

DATA = Path(__file__).parent / "data" / "gpt2_decisions.json"
PROMPTS, LENGTH = 4, 15


def make_scene() -> Scene:
    """Model and prompts of the committed search."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    hf.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(hf.config.vocab_size, (2, PROMPTS, LENGTH), generator=generator)
    answers, wrong = torch.randint(hf.config.vocab_size, (2, PROMPTS), generator=generator)
    batch = PromptBatch.from_ids(clean, corrupted, answers, wrong)
    return Scene(CircuitModel.from_model(hf), batch, LogitDifference(), Resample())


def measure(readers: int, layers: int) -> dict[str, float]:
    """Both editors on the committed decisions, in `layers` layers and at most `readers` readers of each block."""
    scene = make_scene()
    graph, forward = scene.model.graph, forward_seconds(scene.model, scene.batch)
    kept = from_text(json.loads(DATA.read_text())["kept"], len(graph))
    where = spread_layers(graph, layers)
    incremental = cost(graph, kept, time_tests(IncrementalEditor([scene]), kept, where, readers, 16))
    replay = cost(graph, kept, time_tests(ReplayEditor([scene]), kept, where, readers, 1, gradients=False))
    return {
        "forward_s": forward,
        "search_s": incremental.seconds,
        "test_in_forwards": incremental.seconds / incremental.tests / forward,
        "replay_in_forwards": 2 * replay.value_s / forward,  # a test by itself takes two values
        "speedup": 2 * replay.value_s * incremental.tests / incremental.seconds,
        "tests": incremental.tests,
        "edges": int(kept.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=6, help="timed in each block, at most")
    parser.add_argument("--smoke", action="store_true", help="two layers and a reader of each: does it run at all?")
    arguments = parser.parse_args()
    figures = measure(1, 2) if arguments.smoke else measure(arguments.readers, 12)
    print(json.dumps({name: round(value, 5) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
