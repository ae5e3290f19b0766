"""How the cost of an edge test grows with the layers of a model and with the prompts, and what that means for 8B.

Run: python benchmarks/growth.py [--layers 2 4 8 16 30] [--prompts 4 8 16] [--save FILE] [--smoke]

The first n layers of SmolLM2-135M (30 layers, 9 heads, 3 key-value heads, width 576) on 4 IOI prompts, and all of its
layers on more prompts. In each the editor meets a circuit of 1% of the edges, grown at random from the logits, as a
search would that ends with it: behind the timed reader the circuit, before it the full model. Readers are timed in
every layer (16 hypotheses at once), and the whole search is summed up from them; it is not run. With `--save` what is
measured is appended to a file of JSON lines, and read from there at the next start. `captures_mb`, `live_mb`, `cone_mb`
are what the editor held at most, the same with `_told` what `arithmetic.py` says it holds at most.

The extrapolation is to the shape of Llama 3 8B (32 layers, 32 heads, 8 key-value heads, width 4,096), on 4 such prompts
in float32, on the same machine: multiply-adds of tests in a circuit of 1% of its edges, at the speed per multiply-add
that the tests of the largest measured model had beside its forward. The last line is one JSON object: `layers` and
`prompts` (figures of each size), `extrapolation`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arithmetic import LLAMA_8B, Shape, cone, memory_bytes
from timing import forward_seconds
from transformers import LlamaConfig, LlamaForCausalLM

from circuitkit.engine.ablation import Resample
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.scene import Scene
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import LogitDifference
from circuitkit.preflight import DENSITY, cost, sparse_circuit, spread_layers, time_tests
from circuitkit.prompts import PromptBatch
from circuitkit.tasks.ioi import IOI

HYPOTHESES = 16
Figures = dict[str, Any]


class Source:
    """Models of several depths, and prompts: SmolLM2's first layers, or with `smoke` a tiny random Llama."""

    def __init__(self, smoke: bool) -> None:
        self._whole = None if smoke else CircuitModel.from_pretrained("smollm2-135m")
        tiny = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        self._config = LlamaConfig(**tiny, num_key_value_heads=2) if self._whole is None else self._whole.model.config

    def model(self, layers: int) -> CircuitModel:
        """The first layers, with the norm and unembedding of the whole."""
        torch.manual_seed(0)
        config = type(self._config)(**{**self._config.to_dict(), "num_hidden_layers": layers})
        hf = LlamaForCausalLM(config).eval().requires_grad_(False)
        if self._whole is not None:
            there = self._whole.model.state_dict()
            hf.load_state_dict({name: there[name] for name in hf.state_dict()})
        return CircuitModel.from_model(hf)

    def prompts(self, count: int) -> PromptBatch:
        if self._whole is not None:
            return IOI(template=0).prompts(self._whole.tokenizer, "train", count, 0)
        clean, corrupted = torch.randint(300, (2, count, 8), generator=torch.Generator().manual_seed(0))
        corrupted[:, :3] = clean[:, :3]
        return PromptBatch.from_ids(clean, corrupted, [1] * count, [2] * count)


def shape_of(model: CircuitModel) -> Shape:
    """A Llama's shape."""
    family, config = model.family, model.model.config
    sizes = (family.layers, family.heads, family.kv_heads, family.width, family.head_width, config.intermediate_size)
    return Shape(*sizes, config.vocab_size, torch.finfo(model.dtype).bits // 8)


def mean_cone(shape: Shape, length: int, positions: int, layers: int = 8, readers: int = 4) -> dict[str, float]:
    """A search that ends with the sparse circuit: its tests, multiply-adds of one in forwards, its largest cone."""
    graph = shape.graph
    kept = sparse_circuit(graph)
    tests, macs, largest = 0, 0.0, 0
    by_layer: dict[int, list[int]] = {}
    live = graph.live_writers(kept)
    fed = graph.live_readers(live)
    for layer in spread_layers(graph, layers):
        block = graph.blocks[-1] if layer == graph.layers else graph.attention(layer)
        there = [reader for reader in block.readers if fed[reader]]
        for reader in there[:: max(1, len(there) // readers)]:
            found = cone(shape, graph, kept, live, reader, length, positions)
            by_layer.setdefault(layer, []).append(found.macs)
            largest = max(largest, found.writers)
    at = sorted(by_layer)
    for block in graph.blocks:
        edges = int(fed[block.readers.start : block.readers.stop].sum()) * block.writers
        tests += edges
        macs += edges * float(np.interp(block.layer, at, [np.mean(by_layer[layer]) for layer in at]))
    return {"tests": tests, "forwards": macs / tests / shape.forward_macs(length), "affected": largest}


def measure(source: Source, layers: int, prompts: int) -> Figures:
    """One depth and number of prompts."""
    model, batch = source.model(layers), source.prompts(prompts)
    shape, graph = shape_of(model), model.graph
    scene, kept = Scene(model, batch, LogitDifference(), Resample()), sparse_circuit(graph)
    forward = forward_seconds(model, batch)
    timings = time_tests(IncrementalEditor([scene]), kept, spread_layers(graph, layers), 3, HYPOTHESES)
    found = cost(graph, kept, timings)
    held = {part: max(timing.bytes[part] for timing in timings) for part in ("captures", "live", "cone")}
    positions = batch.length - int(batch.parts_at.min())
    counted = mean_cone(shape, batch.length, positions, layers, 3)
    told = memory_bytes(shape, prompts, batch.length, positions, int(counted["affected"]))
    return {
        "edges": len(graph),
        "kept": int(kept.sum()),
        "tests": found.tests,
        "forward_s": forward,
        "value_s": found.value_s,
        "test_in_forwards": found.value_s / forward,
        "search_s": found.seconds,
        "search_in_forwards": found.seconds / forward,
        "arithmetic_in_forwards": counted["forwards"],
        "forward_macs_per_s": prompts * shape.forward_macs(batch.length) / forward,
        "length": batch.length,
        "positions": positions,
        **{f"{part}_mb": size / 2**20 for part, size in held.items()},
        **{f"{part}_mb_told": size / 2**20 for part, size in told.items()},
    }


def extrapolated(largest: Figures, prompts: int, shape: Shape = LLAMA_8B) -> Figures:
    """A search in a model of another shape, from the largest one measured."""
    length, positions = largest["length"], largest["positions"]
    counted = mean_cone(shape, length, positions)
    forward = prompts * shape.forward_macs(length) / largest["forward_macs_per_s"]
    slower = largest["test_in_forwards"] / largest["arithmetic_in_forwards"]
    beside = largest["search_s"] / (largest["tests"] * largest["value_s"])  # opening readers
    test = slower * counted["forwards"]
    told = memory_bytes(shape, prompts, length, positions, int(counted["affected"]))
    return {
        "edges": len(shape.graph),
        "tests": counted["tests"],
        "forward_s": forward,
        "test_in_forwards": test,
        "search_in_forwards": beside * counted["tests"] * test,
        "search_h": beside * counted["tests"] * test * forward / 3600,
        "weights_mb": shape.weight_bytes / 2**20,
        **{f"{part}_mb": size / 2**20 for part, size in told.items()},
    }


def measured(sizes: list[tuple[int, int]], source: Source, file: Path | None) -> dict[tuple[int, int], Figures]:
    """The figures of all sizes (layers, prompts), those in the file as they are there."""
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    found = {tuple(record.pop("size")): record for record in map(json.loads, lines)}
    for size in sizes:
        if size not in found:
            found[size] = {name: float(f"{value:.6g}") for name, value in measure(source, *size).items()}
            if file is not None:
                with file.open("a") as to:
                    to.write(json.dumps({"size": size, **found[size]}) + "\n")
        print(f"{size[0]} layers, {size[1]} prompts:", json.dumps(found[size]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8, 16, 30])
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--save", type=Path, help="JSON lines of what is done, read at the next start")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model: does it run at all?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.prompts = [2, 6], [2, 4]
    layers, prompts = sorted(arguments.layers), sorted(arguments.prompts)
    sizes = list(dict.fromkeys([(n, prompts[0]) for n in layers] + [(layers[-1], n) for n in prompts]))
    found = measured(sizes, Source(arguments.smoke), arguments.save)
    result = {
        "density": DENSITY,
        "layers": {n: found[n, prompts[0]] for n in layers},
        "prompts": {n: found[layers[-1], n] for n in prompts},
        "extrapolation": extrapolated(found[layers[-1], prompts[0]], prompts[0]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
