"""Score the edges of a model with one package, in a process and an environment of its own; `peers.py` starts this.

    python tools/peer_run.py {circuitkit,transformer-lens,eap-ig,auto-circuit} {eap,eap-ig} FOLDER [--rounds 3]

FOLDER has the model (`model/`, as transformers writes GPT-2) and `prompts.json`. What is printed last is a JSON object:
the score of every edge, named and signed as circuitkit does (positive: the edge helps), mean over prompts; the
processor's seconds of each round, after one that does not count; and the memory in MiB that all this added at its peak
above the loaded model.
"""

import argparse
import importlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Scores = dict[str, float]
Run = Callable[[], Scores]
STEPS = 5
"""Points of EAP-IG: 0, 1/5, ..., 4/5 of the way from the corrupted to the clean input."""


def prepare_circuitkit(folder: Path, method: str) -> Run:
    """Score with this package: keys and values by head, as the others do."""
    from circuitkit.data.objectives import LogitDifference
    from circuitkit.data.prompt_batch import PromptBatch
    from circuitkit.engine.ablation import Resample
    from circuitkit.engine.attribution.edge_scores import attribute
    from circuitkit.engine.attribution.reader_gradients import CLEAN_RUN, Interpolation
    from circuitkit.engine.prepared_batch import PreparedBatch
    from circuitkit.models.circuit_model import CircuitModel

    model = CircuitModel.from_pretrained(folder / "model", kv="head")
    batch = PromptBatch.from_ids(*_read_prompts(folder))
    points = tuple(step / STEPS for step in range(STEPS))
    over = CLEAN_RUN if method == "eap" else Interpolation(slice(0, 1), points)

    def run() -> Scores:
        scores = attribute(PreparedBatch(model, batch, LogitDifference(), Resample()), interpolations=[over])
        return dict(zip(model.graph.names, (scores / len(batch)).tolist(), strict=True))

    return run


def prepare_transformer_lens(folder: Path, method: str) -> Run:
    """Score with TransformerLens' `attribution_patch`, which takes gradients on the prompts that it calls corrupt."""
    if method != "eap":
        raise SystemExit("TransformerLens 4.3 has no integrated gradients.")
    bridge = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
    patching = importlib.import_module("transformer_lens.tools.analysis.attribution_patching")
    hf = importlib.import_module("transformers").GPT2LMHeadModel.from_pretrained(
        folder / "model", attn_implementation="eager"
    )
    tokenizer = make_tokenizer(hf.config.vocab_size)
    model = bridge.boot_transformers(str(folder / "model"), hf_model=hf, tokenizer=tokenizer, device="cpu").eval()
    clean, corrupted, answers, wrong = _read_prompts(folder)
    config = patching.EdgeAttributionConfig(granularity="edge")

    def run() -> Scores:
        total: Scores = defaultdict(float)
        for row in range(len(clean)):
            # Clean and corrupted swapped: the gradient is that of our clean prompt. A metric sees one prompt's logits
            found = patching.attribution_patch(
                model, corrupted[row, None], clean[row, None], _difference_of(answers[row], wrong[row]), config
            )
            for (writer, reader), score in found.edge_scores.items():
                total[f"{_name_of_node(writer)}->{_name_of_node(reader)}"] -= score / len(clean)
        return dict(total)

    return run


def _difference_of(answer: Tensor, wrong: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[0, -1, answer] - logits[0, -1, wrong]


def _name_of_node(node: Any) -> str:
    """Name a node of TransformerLens as circuitkit does, without its position."""
    head = f"a{node.layer}.h{node.head}"
    names = {"embed": "input", "attn_head_out": head, "logits": "logits"}
    names |= dict.fromkeys(("mlp_out", "mlp_in"), f"m{node.layer}")
    return (names | {f"{letter}_input": f"{head}<{letter}>" for letter in "qkv"})[node.kind]


def prepare_eap_ig(folder: Path, method: str) -> Run:
    """Score with EAP-IG's `attribute`. It makes its scores on a CUDA device by name: here they go to the CPU."""
    zeros = torch.zeros

    def make_zeros(*size: Any, **options: Any) -> Tensor:
        made: Tensor = zeros(*size, **(options | {"device": "cpu"}))
        return made

    torch.zeros = make_zeros
    attribute = importlib.import_module("eap.attribute").attribute
    graph_class = importlib.import_module("eap.graph").Graph
    model = _load_hooked(folder / "model")
    clean, corrupted, answers, wrong = _read_prompts(folder)
    texts = [[" ".join(f"w{token}" for token in ids[1:]) for ids in rows.tolist()] for rows in (clean, corrupted)]
    data = [(*texts, torch.stack((answers, wrong), 1))]

    def loss(logits: Tensor, _clean: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        pairs = logits[torch.arange(len(labels)), lengths - 1].gather(1, labels)
        return (pairs[:, 1] - pairs[:, 0]).sum()

    def run() -> Scores:
        graph = graph_class.from_model(model)
        name = {"eap": "EAP", "eap-ig": "EAP-IG-inputs"}[method]
        attribute(model, graph, data, loss, name, ig_steps=STEPS, quiet=True)
        return {name: float(edge.score) for name, edge in graph.edges.items()}

    return run


def prepare_auto_circuit(folder: Path, method: str) -> Run:
    """Score with auto-circuit's gradient of the masks of edges where none is removed, which is EAP."""
    if method != "eap":
        raise SystemExit("auto-circuit integrates over the masks of all edges at once, which is another method.")
    data = importlib.import_module("auto_circuit.data")
    gradient = importlib.import_module("auto_circuit.prune_algos.mask_gradient").mask_gradient_prune_scores
    wrap = importlib.import_module("auto_circuit.utils.graph_utils").patchable_model
    model = wrap(_load_hooked(folder / "model"), factorized=True, slice_output="last_seq", separate_qkv=True)
    clean, corrupted, answers, wrong = _read_prompts(folder)
    prompts = data.PromptDataset(clean, corrupted, list(answers[:, None]), list(wrong[:, None]))
    loader = data.PromptDataLoader(prompts, seq_len=None, diverge_idx=0, batch_size=len(clean), shuffle=False)

    def run() -> Scores:
        scores = gradient(model, loader, None, grad_function="logit", answer_function="avg_diff", mask_val=0.0)
        return {_name_of_edge(edge.name): float(edge.prune_score(scores)) for edge in model.edges}

    return run


def _name_of_edge(name: str) -> str:
    """Name an edge of auto-circuit as circuitkit does."""
    name = name.replace("Resid Start", "input").replace("Resid End", "logits").replace("MLP ", "m")
    name = re.sub(r"A(\d+)\.(\d+)", r"a\1.h\2", name)
    return re.sub(r"\.([QKV])$", lambda found: f"<{found[1].lower()}>", name)


def _load_hooked(folder: Path) -> Any:
    """Load GPT-2 into TransformerLens 2, whose loader by name would ask the hub, with unchanged weights."""
    lens = importlib.import_module("transformer_lens")
    convert = importlib.import_module("transformer_lens.pretrained.weight_conversions").convert_gpt2_weights
    hf = importlib.import_module("transformers").GPT2LMHeadModel.from_pretrained(folder)
    cfg = lens.HookedTransformerConfig(
        n_layers=hf.config.n_layer,
        d_model=hf.config.n_embd,
        n_heads=hf.config.n_head,
        d_head=hf.config.n_embd // hf.config.n_head,
        n_ctx=hf.config.n_positions,
        d_vocab=hf.config.vocab_size,
        d_mlp=4 * hf.config.n_embd,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=hf.config.layer_norm_epsilon,
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
        device="cpu",
    )
    model = lens.HookedTransformer(cfg, tokenizer=make_tokenizer(cfg.d_vocab))
    model.load_and_process_state_dict(
        convert(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def make_tokenizer(vocabulary: int) -> Any:
    """Make a tokenizer of one word per token: `w7` is token 7."""
    tokenizers = importlib.import_module("tokenizers")
    words = {"<bos>": 0, "<pad>": 1} | {f"w{token}": token for token in range(2, vocabulary)}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<bos>", "pad_token": "<pad>"}
    fast = importlib.import_module("transformers").PreTrainedTokenizerFast
    return fast(tokenizer_object=core, **special, name_or_path="", add_bos_token=True)


def _read_prompts(folder: Path) -> Iterator[Tensor]:
    """Read token ids of clean and corrupted prompts, `[B, T]`, right and wrong answers, `[B]`."""
    prompts = json.loads((folder / "prompts.json").read_text())
    names = ("clean", "corrupted", "answers", "wrong_answers")
    return iter([torch.tensor(prompts[name], dtype=torch.int64) for name in names])


def measure(run: Run, rounds: int) -> dict[str, Any]:
    """Run once for warmth, then `rounds` times; see this script's docstring for what is returned."""
    before = _read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again (Linux)
    scores, seconds = run(), []
    for _ in range(rounds):
        start = time.process_time()
        again = run()
        seconds.append(time.process_time() - start)
        assert again == scores or max(abs(again[name] - scores[name]) for name in scores) < 1e-5, "not deterministic"
    return {"scores": scores, "seconds": seconds, "peak_mb": _read_status("VmHWM") - before}


def _read_status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) / 1024


PACKAGES: dict[str, Callable[[Path, str], Run]] = {
    "circuitkit": prepare_circuitkit,
    "transformer-lens": prepare_transformer_lens,
    "eap-ig": prepare_eap_ig,
    "auto-circuit": prepare_auto_circuit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("method", choices=["eap", "eap-ig"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = PACKAGES[arguments.package](arguments.folder, arguments.method)
    print(json.dumps(measure(run, arguments.rounds)))


if __name__ == "__main__":
    main()
