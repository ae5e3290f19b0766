"""Compile two RASP programs with tracr, to `circuitkit/models/compiled/` and `circuitkit/evaluation/known/`.

    pip install -e ".[tracr]"          # in an environment of its own, with Python 3.11
    python tools/compile_tracr.py [--out FOLDER]

The programs are those of the ACDC paper (Conmy et al. 2023, arXiv 2304.14997): tracr's `make_reverse`, which reverses a
sequence of at most 5 of 3 tokens, and `make_frac_prevs`, the fraction of the tokens so far that are "x". The script
needs JAX and no part of this package; the models that it writes need neither JAX nor tracr.

Which edges matter is read from the compiled model and the program together (`find_edges`):

1. Every direction of the residual stream has a label, a variable of the program and a value, such as `indices:3`. A
   node writes the labels in which its output matrix is not zero, and a reader reads those in which its input matrix is
   not zero. There is an edge wherever a label is both written and read.
2. tracr adds the labels `one` and `tokens:BOS` to the queries and keys of every head, so that a query that selects
   nothing attends to the first token. In these programs every query selects something (which is checked on all
   inputs), so that queries and keys matter only for the variables that the program selects by.
3. A selector that is always true selects every key, whatever queries and keys are: neither matters.

Removed edges carry zeros in the first list, `zero`. With resampling they carry what they have on another input of the
same length. So only edges whose variable depends on the tokens matter then, the second list, `resample`.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

HAS_TRACR = find_spec("tracr") is not None
if HAS_TRACR:  # --help works without it
    from tracr.compiler import compiling, lib
    from tracr.rasp import rasp

BOS, LONGEST = "BOS", 5
VOCABULARIES: dict[str, tuple[Any, ...]] = {"tracr-reverse": (0, 1, 2), "tracr-frac-prevs": ("w", "x", "y", "z")}
SOURCE = (
    "compiled by tracr 1.0.0 (Lindner et al. 2023, arXiv 2301.05062) as in Conmy et al. 2023 (arXiv 2304.14997); the "
    "edges are derived in tools/compile_tracr.py"
)
Matrix = npt.NDArray[Any]
Labels = frozenset[str]


def read_weights(compiled: Any, program: Any) -> dict[str, Matrix]:
    """Return the weights by their names in `circuitkit.models.tracr`; there are no biases other than zero."""
    params = {path: {name: np.asarray(x) for name, x in own.items()} for path, own in compiled.params.items()}
    assert not any(own["b"].any() for own in params.values() if "b" in own), "a bias is not zero"
    weights = {
        "embed.weight": params["token_embed"]["embeddings"],
        "positions.weight": params["pos_embed"]["embeddings"],
        "unembed.weight": unembedding(compiled, program),
    }
    places = {"q": "attn/query", "k": "attn/key", "v": "attn/value", "o": "attn/linear"}
    places |= {"mlp.up": "mlp/linear_1", "mlp.down": "mlp/linear_2"}
    for layer in range(compiled.model_config.num_layers):
        for name, place in places.items():
            weights[f"layers.{layer}.{name}.weight"] = params[f"transformer/layer_{layer}/{place}"]["w"].T
    return {name: np.ascontiguousarray(weight, dtype=np.float32) for name, weight in weights.items()}


def unembedding(compiled: Any, program: Any) -> Matrix:
    """Return the rows that tracr reads the output from, `[outputs, D]`: of each value, or of the number itself."""
    values: dict[Any, int] = getattr(compiled.output_encoder, "encoding_map", {})
    labels = [f"{program.label}:{value}" for value in sorted(values, key=lambda one: values[one])] or [program.label]
    rows = np.zeros((len(labels), len(compiled.residual_labels)), dtype=np.float32)
    rows[range(len(labels)), [compiled.residual_labels.index(label) for label in labels]] = 1
    return rows


def run(weights: dict[str, Matrix], layers: int, ids: Sequence[int]) -> Matrix:
    """Run the model in plain numpy, `[T, outputs]`; one head per layer."""
    x = weights["embed.weight"][list(ids)] + weights["positions.weight"][: len(ids)]
    for layer in range(layers):
        of = {name: weights[f"layers.{layer}.{name}.weight"].T for name in ("q", "k", "v", "o", "mlp.up", "mlp.down")}
        scores = (x @ of["q"]) @ (x @ of["k"]).T / math.sqrt(of["q"].shape[1])
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        x = x + (pattern / pattern.sum(-1, keepdims=True)) @ (x @ of["v"]) @ of["o"]
        x = x + np.maximum(x @ of["mlp.up"], 0) @ of["mlp.down"]
    result: Matrix = x @ weights["unembed.weight"].T
    return result


def inputs_of(vocabulary: Sequence[Any]) -> Iterable[list[Any]]:
    """List every input of at most `LONGEST` tokens."""
    for length in range(1, LONGEST + 1):
        yield from map(list, itertools.product(vocabulary, repeat=length))


def check(compiled: Any, program: Any, weights: dict[str, Matrix], vocabulary: Sequence[Any]) -> None:
    """Check that the weights compute the program on every input, and tracr's own model on some."""
    categorical = len(weights["unembed.weight"]) > 1
    for number, tokens in enumerate(inputs_of(vocabulary)):
        ids = compiled.input_encoder.encode([BOS, *tokens])
        found = run(weights, compiled.model_config.num_layers, ids)[1:]
        wanted = program(tokens)
        if categorical:
            assert [vocabulary[index] for index in found.argmax(-1)] == wanted, tokens
        else:
            assert np.allclose(found[:, 0], wanted, atol=1e-4), tokens
        if number % 50 == 0:
            decoded = compiled.apply([BOS, *tokens]).decoded[1:]
            assert decoded == wanted if categorical else np.allclose(decoded, wanted, atol=1e-4)


def find_edges(
    compiled: Any, program: Any, weights: dict[str, Matrix], vocabulary: Sequence[Any]
) -> dict[str, list[str]]:
    """Find the edges that matter, by ablation; see the module."""
    labels = compiled.residual_labels

    def written(matrix: Matrix) -> Labels:  # [D, n]
        return frozenset(label for label, row in zip(labels, matrix, strict=True) if row.any())

    writers = {"input": written(weights["embed.weight"].T), "positions": written(weights["positions.weight"].T)}
    selectors = {variable.label: variable.selector for variable in variables(program) if hasattr(variable, "selector")}
    depends = {variable.label: depends_on_tokens(variable) for variable in variables(program)}
    edges: dict[str, list[str]] = {"zero": [], "resample": []}

    def connect(reader: str, read: Labels) -> None:
        for writer, wrote in writers.items():
            if carried := read & wrote:
                edges["zero"].append(f"{writer}->{reader}")
                if any(label != f"tokens:{BOS}" and depends.get(variable_of(label), False) for label in carried):
                    edges["resample"].append(f"{writer}->{reader}")

    for layer in range(compiled.model_config.num_layers):
        of = {name: weights[f"layers.{layer}.{name}.weight"] for name in ("q", "k", "v", "o", "mlp.up", "mlp.down")}
        wrote = written(of["o"])
        if wrote:
            (selector,) = (one for label, one in selectors.items() if any(name.startswith(label) for name in wrote))
            check_selects(selector, vocabulary)
            for kind, variable in (("q", selector.queries), ("k", selector.keys)):
                chosen = {label for label in written(of[kind].T) if variable_of(label) == variable.label}
                chosen -= {f"tokens:{BOS}"}
                connect(f"a{layer}.h0<{kind}>", frozenset() if is_always_true(selector) else frozenset(chosen))
            connect(f"a{layer}.h0<v>", written(of["v"].T))
            writers[f"a{layer}.h0"] = wrote
        if of["mlp.down"].any():
            connect(f"m{layer}", written(of["mlp.up"].T))
            writers[f"m{layer}"] = written(of["mlp.down"])
    connect("logits", written(weights["unembed.weight"].T))
    return edges


def variable_of(label: str) -> str:
    """Return the variable of a label: `indices` of `indices:3`; of a selector's width also where its head writes."""
    return label.partition(":")[0].removesuffix("_selector_width_attn_output")


def variables(program: Any) -> Iterable[Any]:
    """List the variables of a program (s-ops), each with those that it is made of."""
    yield program
    for child in program.children:
        yield from variables(child) if isinstance(child, rasp.SOp) else itertools.chain(*map(variables, child.children))


def is_always_true(selector: Any) -> bool:
    """Tell whether a selector selects every key."""
    return bool(selector.predicate == rasp.Comparison.TRUE)


def depends_on_tokens(variable: Any) -> bool:
    """Tell whether a variable, or a selector, can differ between two inputs of the same length."""
    if isinstance(variable, rasp.Select) and is_always_true(variable):
        return False
    return isinstance(variable, rasp.TokensType) or any(map(depends_on_tokens, variable.children))


def check_selects(selector: Any, vocabulary: Sequence[Any]) -> None:
    """Check that every query selects some key, on every input."""
    for tokens in inputs_of(vocabulary):
        assert np.asarray(selector(tokens)).any(-1).all(), f"a query selects nothing on {tokens}"


def write(folder: Path, name: str) -> None:
    """Compile one program, and write model, tokenizer and circuits."""
    program = lib.make_reverse(rasp.tokens) if name == "tracr-reverse" else lib.make_frac_prevs(rasp.tokens == "x")
    vocabulary = VOCABULARIES[name]
    compiled = compiling.compile_rasp_to_model(program, set(vocabulary), max_seq_len=LONGEST, compiler_bos=BOS)
    weights = read_weights(compiled, program)
    check(compiled, program, weights, vocabulary)
    config = {
        "architectures": ["TracrLMHeadModel"],
        "model_type": "tracr",
        "dtype": "float32",
        "vocab_size": len(weights["embed.weight"]),
        "outputs": len(weights["unembed.weight"]),
        "hidden_size": len(compiled.residual_labels),
        "num_hidden_layers": compiled.model_config.num_layers,
        "num_attention_heads": compiled.model_config.num_heads,
        "head_dim": compiled.model_config.key_size,
        "intermediate_size": compiled.model_config.mlp_hidden_size,
        "max_position_embeddings": len(weights["positions.weight"]),
    }
    model = folder / "models" / "compiled" / name
    model.mkdir(parents=True, exist_ok=True)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    write_json(model / "config.json", config)
    write_tokenizer(model, {str(token): number for token, number in compiled.input_encoder.encoding_map.items()})
    graph = {"layers": config["num_hidden_layers"], "heads": config["num_attention_heads"], "positions": "writer"}
    for ablation, edges in find_edges(compiled, program, weights, vocabulary).items():
        described = {
            "about": f"the edges that matter under the ablation {ablation}, {SOURCE}",
            "models": [name],
            "graph": graph,
            "connections": [dict(zip(("from", "to"), edge.split("->"), strict=True)) for edge in edges],
        }
        write_json(folder / "evaluation" / "known" / f"{name}-{ablation}.json", described)
        print(f"{name}, {ablation}: {len(edges)} edges: {', '.join(edges)}")


def write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    """Write a tokenizer of words, separated by spaces."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="compiler_pad"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": BOS, "pad_token": "compiler_pad", "unk_token": "compiler_pad"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})


def write_json(path: Path, contents: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "circuitkit", help="the package")
    given = parser.parse_args()
    if not HAS_TRACR:
        sys.exit('tracr is not installed. Run `pip install -e ".[tracr]"` in an environment of its own.')
    for one in VOCABULARIES:
        write(given.out, one)
