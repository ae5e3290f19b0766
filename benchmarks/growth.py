"""How the cost of an edge test grows with the layers of a model and with the prompts, extrapolated to 8B parameters.

Run: python benchmarks/growth.py [--layers 2 4 8 16 30] [--prompts 4 8 16] [--save FILE] [--smoke]

The first n layers of SmolLM2-135M (30 layers, 9 heads, 3 key-value heads, width 576) on 4 IOI prompts, and all of its
layers on more prompts. The search is assumed to end with a connected circuit of 1% of the edges, grown at random from
the logits: downstream of the timed reader these edges are kept, upstream all are. Readers of every layer are timed (16
hypotheses at once), and the time of the whole search, which is not run, is summed up from them. With `--save` the
figures are appended to a file of JSON lines, and read from there at the next start. `captures_mb`, `live_mb` and
`cone_mb` are the largest sizes that the editor held; the same names with `_bound` are the upper bounds of
`arithmetic.py`.

The extrapolation is to the shape of Llama 3 8B (32 layers, 32 heads, 8 key-value heads, width 4,096), on 4 such prompts
in float32, on the same machine. It counts the multiply-adds of tests in a circuit of 1% of the edges, and assumes the
speed per multiply-add of the largest measured model: that of its tests relative to its forward pass. The last line is
one JSON object: `layers` and `prompts` (figures of each size), `extrapolation`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import fetched
import numpy as np
import torch
from arithmetic import LLAMA_8B, Shape, cone, memory_bytes
from timing import forward_seconds
from transformers import LlamaConfig, LlamaForCausalLM

from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.cost_estimate import DENSITY, cost, sparse_circuit, spread_layers, time_tests
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.ioi import IOI

HYPOTHESES = 16
Figures = dict[str, Any]


class Source:
    """Models of several depths, and prompts: the first layers of SmolLM2, or with `smoke` a tiny random Llama."""

    def __init__(self, smoke: bool) -> None:
        self._whole = None if smoke else CircuitModel.from_pretrained("smollm2-135m")
        self._config = _tiny_config() if self._whole is None else self._whole.model.config.to_dict()

    def model(self, layers: int) -> CircuitModel:
        """Make a model of the first layers, with the norm and the unembedding of the whole model."""
        torch.manual_seed(0)
        hf = LlamaForCausalLM(LlamaConfig(**{**self._config, "num_hidden_layers": layers})).eval().requires_grad_(False)
        if self._whole is not None:
            weights = self._whole.model.state_dict()
            hf.load_state_dict({name: weights[name] for name in hf.state_dict()})
        return CircuitModel.from_model(hf)

    def prompts(self, count: int) -> PromptBatch:
        if self._whole is not None:
            return IOI(template=0).prompts(self._whole.tokenizer, "train", count, 0)
        clean, corrupted = torch.randint(300, (2, count, 8), generator=torch.Generator().manual_seed(0))
        corrupted[:, :3] = clean[:, :3]
        return PromptBatch.from_ids(clean, corrupted, [1] * count, [2] * count)


def _tiny_config() -> dict[str, Any]:
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64}
    return {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2}


def shape_of(model: CircuitModel) -> Shape:
    """Return the shape of a Llama."""
    family, config = model.family, model.model.config
    sizes = (family.layers, family.heads, family.kv_heads, family.width, family.head_width, config.intermediate_size)
    return Shape(*sizes, config.vocab_size, torch.finfo(model.dtype).bits // 8)


def mean_cone(shape: Shape, length: int, positions: int, layers: int = 8, readers: int = 4) -> dict[str, float]:
    """Count a search that ends with the sparse circuit.

    Returns:
        `tests`: how many. `forwards`: multiply-adds of a test, relative to a plain forward pass; mean. `affected`:
        writers in the largest cone.
    """
    graph = shape.graph
    kept = sparse_circuit(graph)
    tests, macs, largest = 0, 0.0, 0
    by_layer: dict[int, list[int]] = {}
    live = graph.live_writers(kept)
    fed = graph.live_readers(live)
    for layer in spread_layers(graph, layers):
        block = graph.blocks[-1] if layer == graph.layers else graph.attention(layer)
        live_readers = [reader for reader in block.readers if fed[reader]]
        for reader in live_readers[:: max(1, len(live_readers) // readers)]:
            found = cone(shape, graph, kept, live, reader, length, positions)
            by_layer.setdefault(layer, []).append(found.macs)
            largest = max(largest, found.writers)
    layers_at = sorted(by_layer)
    for block in graph.blocks:
        edges = int(fed[block.readers.start : block.readers.stop].sum()) * block.writers
        tests += edges
        means = [float(np.mean(by_layer[layer])) for layer in layers_at]
        macs += edges * float(np.interp(block.layer, layers_at, means))
    return {"tests": tests, "forwards": macs / tests / shape.forward_macs(length), "affected": largest}


def measure(source: Source, layers: int, prompts: int) -> Figures:
    """Measure one depth and number of prompts."""
    model, batch = source.model(layers), source.prompts(prompts)
    shape, graph = shape_of(model), model.graph
    prepared, kept = PreparedBatch(model, batch, LogitDifference(), Resample()), sparse_circuit(graph)
    forward = forward_seconds(model, batch)
    timings = time_tests(IncrementalEditor([prepared]), kept, spread_layers(graph, layers), 3, HYPOTHESES)
    found = cost(graph, kept, timings)
    held = {part: max(timing.bytes[part] for timing in timings) for part in ("captures", "live", "cone")}
    positions = batch.length - int(batch.first_difference.min())
    counts = mean_cone(shape, batch.length, positions, layers, 3)
    bounds = memory_bytes(shape, prompts, batch.length, positions, int(counts["affected"]))
    return {
        "edges": len(graph),
        "kept": int(kept.sum()),
        "tests": found.tests,
        "forward_s": forward,
        "value_s": found.value_s,
        "test_in_forwards": found.value_s / forward,
        "search_s": found.seconds,
        "search_in_forwards": found.seconds / forward,
        "arithmetic_in_forwards": counts["forwards"],
        "forward_macs_per_s": prompts * shape.forward_macs(batch.length) / forward,
        "length": batch.length,
        "positions": positions,
        **{f"{part}_mb": size / 2**20 for part, size in held.items()},
        **{f"{part}_mb_bound": size / 2**20 for part, size in bounds.items()},
    }


def extrapolate(largest: Figures, prompts: int, shape: Shape = LLAMA_8B) -> Figures:
    """Estimate a search in a model of another shape from the figures of the largest model."""
    length, positions = largest["length"], largest["positions"]
    counts = mean_cone(shape, length, positions)
    forward = prompts * shape.forward_macs(length) / largest["forward_macs_per_s"]
    slowdown = largest["test_in_forwards"] / largest["arithmetic_in_forwards"]
    overhead = largest["search_s"] / (largest["tests"] * largest["value_s"])  # opening readers
    test = slowdown * counts["forwards"]
    sizes = memory_bytes(shape, prompts, length, positions, int(counts["affected"]))
    return {
        "edges": len(shape.graph),
        "tests": counts["tests"],
        "forward_s": forward,
        "test_in_forwards": test,
        "search_in_forwards": overhead * counts["tests"] * test,
        "search_h": overhead * counts["tests"] * test * forward / 3600,
        "weights_mb": shape.weight_bytes / 2**20,
        **{f"{part}_mb": size / 2**20 for part, size in sizes.items()},
    }


def measure_all(sizes: list[tuple[int, int]], source: Source, file: Path | None) -> dict[tuple[int, int], Figures]:
    """Return the figures of all sizes (layers, prompts); those in the file are not measured again."""
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    found = {tuple(record.pop("size")): record for record in map(json.loads, lines)}
    for size in sizes:
        if size not in found:
            found[size] = {name: float(f"{value:.6g}") for name, value in measure(source, *size).items()}
            if file is not None:
                with file.open("a") as out:
                    out.write(json.dumps({"size": size, **found[size]}) + "\n")
        print(f"{size[0]} layers, {size[1]} prompts:", json.dumps(found[size]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8, 16, 30])
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--save", type=Path, help="file of JSON lines with finished sizes, read at the next start")
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: a tiny random model")
    arguments = parser.parse_args()
    if not arguments.smoke:
        fetched.require("smollm2-135m")
    if arguments.smoke:
        arguments.layers, arguments.prompts = [2, 6], [2, 4]
    layers, prompts = sorted(arguments.layers), sorted(arguments.prompts)
    sizes = list(dict.fromkeys([(n, prompts[0]) for n in layers] + [(layers[-1], n) for n in prompts]))
    found = measure_all(sizes, Source(arguments.smoke), arguments.save)
    result = {
        "density": DENSITY,
        "layers": {n: found[n, prompts[0]] for n in layers},
        "prompts": {n: found[layers[-1], n] for n in prompts},
        "extrapolation": extrapolate(found[layers[-1], prompts[0]], prompts[0]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
