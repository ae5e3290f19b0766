"""GGUF files on this machine. transformers reads them, and dequantizes their weights.

transformers ignores some of what a file says about positions and windows. That is added here, or refused, so that the
model is the one in the file. The file has to be of an architecture that transformers can read from GGUF.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.brought import first_line


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
        UsageError: there is no such file, or the package accelerate is missing.
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
        window = self._field("attention.sliding_window")
        if window and hasattr(config, "sliding_window") and config.sliding_window is None:
            config.sliding_window = int(window)
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

    def complete_model(self, model: PreTrainedModel) -> None:
        """Divide the rotary frequencies by the factors in the file (Llama 3), and make it a model like any other."""
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

    def _field(self, name: str) -> Any:
        """Return a value that the file says about its architecture; None: it does not."""
        (kind,) = (field.contents() for key, field in self._reader.fields.items() if key == "general.architecture")
        field = self._reader.fields.get(f"{kind}.{name}")
        return None if field is None else field.contents()

    def _unread(self, what: str) -> UsageError:
        return UsageError(
            f"{str(self._path)!r} has {what}, which transformers does not read from a GGUF file.",
            "Load the model from its Hugging Face folder or name.",
        )
