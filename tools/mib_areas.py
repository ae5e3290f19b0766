"""Make tests/reference/mib: what the code of MIB and EAP-IG says of files that this package writes.

    python tools/mib_areas.py export FOLDER
    python tools/mib_areas.py score FOLDER

`export` needs this package. It writes two small random models (`gpt2`, and `llama` with grouped-query attention),
prompts of different lengths, the importances of EAP, and nine circuits at MIB's sizes grown from them.

`score` needs EAP-IG, MIB's code that scores submissions, and TransformerLens instead. It has them read those files and
evaluate them in float64, and writes `figures.json` for each model. The committed figures were made with these versions:

- https://github.com/hannamw/EAP-IG, commit 795f5607b256 (July 2025)
- https://github.com/mttk/MIB-circuit-track-autoeval, commit b48d9ba56d6a (August 2025), the leaderboard's own code
- TransformerLens 2.18.0, transformers 4.57.6, torch 2.13.0, on the CPU

The folders `circuits` are not committed: the test makes the same circuits.
"""

import argparse
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCABULARY, WIDTH, HEADS, POSITIONS = 31, 16, 4, 12
BOS, PAD = 0, 1
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": WIDTH,
        "n_layer": 6,
        "n_head": HEADS,
        "n_positions": POSITIONS,
    },
    "llama": {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
    },
}


def export(folder: Path) -> None:
    """Write the models, prompts and circuits."""
    for kind in MODELS:
        _export_model(folder / kind, kind)


def _export_model(folder: Path, kind: str) -> None:
    from circuitkit import CircuitModel, PromptBatch  # here, since `score` runs without it
    from circuitkit.circuit.circuit import Circuit
    from circuitkit.circuit.mib_files import SIZES, write_circuits
    from circuitkit.data.objectives import LogitDifference
    from circuitkit.engine.ablation import Resample
    from circuitkit.engine.attribution.edge_scores import attribute
    from circuitkit.engine.prepared_batch import PreparedBatch

    folder.mkdir(parents=True)
    hf = _make_model(kind)
    (folder / "config.json").write_text(json.dumps({**MODELS[kind], "architectures": [type(hf).__name__]}, indent=1))
    save_file(
        {name: tensor.contiguous() for name, tensor in _own_tensors(hf)}, folder / "model.safetensors", {"format": "pt"}
    )
    prompts = _make_prompts()
    (folder / "prompts.json").write_text(json.dumps(prompts))
    model = CircuitModel.from_pretrained(folder, kv="head", dtype=torch.float64)
    batch = PromptBatch.from_ids(**prompts)
    prepared = PreparedBatch(model, batch, LogitDifference(), Resample())
    ranking = Circuit.from_scores(model.graph, attribute(prepared) / len(batch))
    write_circuits(folder / "importances", ranking, WIDTH)
    nine = [ranking.greedy(int(size * len(model.graph))) for size in SIZES[:-1]]
    write_circuits(folder / "circuits", nine, WIDTH)


def _make_model(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(MODELS[kind])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    random = torch.Generator().manual_seed(0)
    for name, parameter in _own_tensors(model):
        noise = torch.randn(parameter.shape, generator=random, dtype=torch.float32)
        if parameter.ndim == 1:
            parameter.data = 0.3 * noise + ("norm" in name or ".ln_" in name) * name.endswith("weight")
        else:
            parameter.data = noise * (1.0 if "wte" in name or "embed" in name else 0.8 * parameter.shape[-1] ** -0.5)
    return model.eval()


def _own_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(model.named_parameters())


def _make_prompts() -> dict[str, Any]:
    """Make eight pairs of 6 to 9 tokens that share the first and the last three."""
    random = torch.Generator().manual_seed(1)
    rows: dict[str, list[Any]] = {"clean": [], "corrupted": [], "answers": [], "wrong_answers": []}
    for index in range(8):
        one, other = torch.randint(2, VOCABULARY, (2, 5 + index % 4), generator=random, dtype=torch.int64).tolist()
        rows["clean"].append([BOS, *one])
        rows["corrupted"].append([BOS, one[0], *other[1:-2], *one[-2:]])
        right, wrong = (2 + torch.randperm(VOCABULARY - 2, generator=random)[:2]).tolist()
        rows["answers"].append(right)
        rows["wrong_answers"].append(wrong)
    return rows


def score(folder: Path) -> None:
    """Read what `export` wrote with the code of MIB, and write its figures."""
    evaluation = importlib.import_module("MIB_circuit_track.evaluation")
    graph_class = importlib.import_module("eap.graph").Graph
    for kind in MODELS:
        model, data = _load_hooked(folder / kind, kind), _load_prompts(folder / kind / "prompts.json")
        figures = {}
        for ranking in ("signed", "absolute"):
            graph = graph_class.from_pt(str(folder / kind / "importances" / "importances.pt"))
            found = evaluation.evaluate_area_under_curve(
                model, graph, data, _logit_differences, quiet=True, absolute=ranking == "absolute"
            )
            figures[ranking] = _name(found)
        # The name of the model is used for its number of edges alone, which no area depends on
        found = evaluation.evaluate_area_under_curve_multifile(
            str(folder / kind / "circuits"), model, "gpt2", data, _logit_differences, quiet=True
        )
        figures["circuits"] = _name(found)
        (folder / kind / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def _name(found: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("edges", "area_under", "area_from_1", "average", "faithfulness"), found, strict=True))


def _logit_differences(logits: Tensor, _clean: Tensor, lengths: Tensor, labels: list[list[int]]) -> Tensor:
    """Compute logit differences, in the place of a metric of MIB."""
    metrics = importlib.import_module("MIB_circuit_track.metrics")
    found: Tensor = metrics.logit_diff(logits, None, lengths, labels, mean=False, loss=False)
    return found


def _load_prompts(path: Path) -> list[tuple[list[str], list[str], list[list[int]]]]:
    """Make two batches of MIB's form: clean and corrupted texts without the first token, right and wrong answer."""
    rows = json.loads(path.read_text())
    texts = [[" ".join(f"w{token}" for token in ids[1:]) for ids in rows[which]] for which in ("clean", "corrupted")]
    labels = [list(pair) for pair in zip(rows["answers"], rows["wrong_answers"], strict=True)]
    return [(texts[0][part], texts[1][part], labels[part]) for part in (slice(4), slice(4, 8))]


def _load_hooked(folder: Path, kind: str) -> Any:
    """Load a model into TransformerLens, in float64, with a tokenizer of one word per token."""
    lens = importlib.import_module("transformer_lens")
    conversions = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    transformers = importlib.import_module("transformers")
    config = dict(MODELS[kind])
    hf = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    ).double()
    missing = hf.load_state_dict(
        {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}, strict=False
    )
    assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
    assert not missing.unexpected_keys, missing
    hf.tie_weights()
    shared = {
        "d_model": WIDTH,
        "n_heads": HEADS,
        "d_head": WIDTH // HEADS,
        "n_ctx": POSITIONS,
        "d_vocab": VOCABULARY,
        "dtype": torch.float64,
        "use_attn_result": True,
        "use_split_qkv_input": True,
        "use_hook_mlp_in": True,
        "default_prepend_bos": True,
    }
    special: dict[str, Any]
    if kind == "gpt2":
        special = {"n_layers": 6, "d_mlp": 4 * WIDTH, "act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5}
        convert = conversions.convert_gpt2_weights
    else:
        special = {
            "n_layers": 4,
            "d_mlp": 24,
            "act_fn": "silu",
            "normalization_type": "RMS",
            "final_rms": True,
            "gated_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_adjacent_pairs": False,
            "rotary_dim": WIDTH // HEADS,
            "rotary_base": 10000,
            "n_key_value_heads": 2,
            "ungroup_grouped_query_attention": True,
            "eps": 1e-6,
        }
        convert = conversions.convert_llama_weights
    cfg = lens.HookedTransformerConfig(**shared, **special)
    model = lens.HookedTransformer(cfg, tokenizer=_make_tokenizer())
    model.load_and_process_state_dict(
        convert(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def _make_tokenizer() -> Any:
    tokenizers = importlib.import_module("tokenizers")
    words = {"<bos>": BOS, "<pad>": PAD} | {f"w{token}": token for token in range(2, VOCABULARY)}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = importlib.import_module("transformers").PreTrainedTokenizerFast
    special = {"bos_token": "<bos>", "eos_token": "<bos>", "pad_token": "<pad>"}
    return fast(tokenizer_object=core, **special, name_or_path="", add_bos_token=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["export", "score"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"export": export, "score": score}[arguments.step](arguments.folder)
