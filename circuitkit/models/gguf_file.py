"""GGUF files on this machine. transformers reads them, and dequantizes their weights.

transformers ignores some of what a file says about positions, windows and heads. That is added here, or refused, so
that the model is the one in the file. Of the architectures that transformers can read from GGUF, only those are
accepted of which it is known what it ignores: of Gemma 2 and 3, for one, the soft caps and the scale of attention.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.brought import first_line
from circuitkit.models.families.base import Family

_ARCHITECTURES = {"llama": "llama (also Mistral)", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gpt2": "gpt2"}
"""The architectures that are accepted, each with its name in messages."""


def is_gguf(source: str) -> bool:
    """Tell whether a model's name is the path of a GGUF file, there or not."""
    return source.lower().endswith(".gguf") and not Path(source).is_dir()


def describe_place(source: str) -> dict[str, str]:
    """Return the arguments by which transformers finds a folder, a name on the hub, or a GGUF file."""
    if not is_gguf(source):
        return {"pretrained_model_name_or_path": source}
    path = Path(source).resolve()  # transformers would prefer a file of this name in the current folder
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": str(path)}


class GGUFFile:
    """What a GGUF file says about its model.

    Args:
        path: of the file.

    Raises:
        UsageError: there is no such file, the package accelerate is missing, or the architecture is not supported.
        CircuitKitError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise UsageError(f"There is no file {str(path)!r}.", "Give the path of a GGUF file.")
        if importlib.util.find_spec("accelerate") is None:
            raise UsageError(
                "transformers reads GGUF files with the package accelerate, which is not installed.",
                'Install it: pip install "pahq-circuitkit[gguf]".',
            )
        from gguf import GGUFReader

        try:
            self._reader = GGUFReader(path)
        except Exception as error:  # a file that is none, or ends too early, breaks its reader in many ways
            raise CircuitKitError(
                f"{str(path)!r} is not a whole GGUF file: {first_line(error)}", "Download it again."
            ) from error
        field = self._reader.fields.get("general.architecture")
        self._architecture = None if field is None else field.contents()
        kind = f"{self._architecture} with experts" if self._field("expert_count") else self._architecture
        if kind not in _ARCHITECTURES:
            raise UsageError(
                f"{str(path)!r} is of the architecture {kind!r}, which circuitkit does not read from GGUF.",
                f"It reads {', '.join(_ARCHITECTURES.values())}; load others from their Hugging Face folder or name.",
            )

    @property
    def options(self) -> dict[str, Any]:
        """The options that make transformers dequantize all weights."""
        kind = getattr(transformers, "GgufConfig", None)  # older versions always do
        return {} if kind is None else {"quantization_config": kind(dequantize=True)}

    def complete_config(self, config: PreTrainedConfig) -> None:
        """Add what transformers does not read.

        Raises:
            UsageError: it cannot be added.
        """
        if config.model_type == "mistral":  # transformers takes a Llama of this very name for one, and cannot load it
            raise self._unread("the general.name 'mistral'")
        if self._architecture == "phi3":
            config.sliding_window = self._window
        if self._architecture == "qwen3" and (width := self._field("attention.key_length")):
            config.head_dim = int(width)
        scaling = self._field("rope.scaling.type")
        if scaling not in (None, "none") or any(
            tensor.name.startswith("rope_factors") for tensor in self._reader.tensors
        ):
            raise self._unread(f"scaled rotary positions ({'longrope' if scaling is None else scaling})")
        rotated, parameters = self._field("rope.dimension_count"), getattr(config, "rope_parameters", None)
        if rotated and parameters:
            whole = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            if int(rotated) != int(whole * parameters.get("partial_rotary_factor", 1.0)):
                raise self._unread(f"rotary positions of {int(rotated)} of the {whole} dimensions of a head")

    def complete_model(self, model: PreTrainedModel, family: Family) -> None:
        """Divide the rotary frequencies by the factors in the file (Llama 3), and make it a model like any other.

        Args:
            model: read from the file.
            family: its view by heads and MLPs.

        Raises:
            UsageError: the file has weights or a sliding window that the model lacks.
        """
        if any(family.window(layer) != self._window for layer in range(family.layers)):
            raise self._unread(f"a sliding window of {self._window or 'no'} tokens")
        if others := self._tensors_outside(model):
            raise self._unread(f"weights {others[0]!r}" + (f" and {len(others) - 1} more" if others[1:] else ""))
        quantizer: Any = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            quantizer.remove_quantization_config(model)
        model.config.name_or_path = str(self._path)
        for tensor in self._reader.tensors:
            if tensor.name == "rope_freqs.weight":
                rotary: Any = model.get_decoder().rotary_emb
                factors = torch.tensor(tensor.data, dtype=torch.float32, device=rotary.inv_freq.device)
                rotary.inv_freq = rotary.inv_freq / factors
                rotary.original_inv_freq = rotary.inv_freq.clone()

    def _tensors_outside(self, model: PreTrainedModel) -> list[str]:
        """List the tensors of the file that the model has not: transformers drops the biases of a Llama, for one."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == self._architecture)
        names = get_tensor_name_map(kind, model.config.num_hidden_layers)
        read = {names.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()}
        return sorted({tensor.name for tensor in self._reader.tensors} - read - {"rope_freqs.weight"})

    @property
    def _window(self) -> int | None:
        """The sliding window; 0 in a file means none."""
        return int(self._field("attention.sliding_window") or 0) or None

    def _field(self, name: str) -> Any:
        """Return a value that the file says about its architecture; None: it does not."""
        field = self._reader.fields.get(f"{self._architecture}.{name}")
        return None if field is None else field.contents()

    def _unread(self, what: str) -> UsageError:
        return UsageError(
            f"{str(self._path)!r} has {what}, which transformers does not read from a GGUF file.",
            "Load the model from its Hugging Face folder or name.",
        )
