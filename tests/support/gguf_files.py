"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LETTERS = [*"abcdefgh", "Ġ", "Ġa", "Ġb", "<|end|>"]
Q8_0, F32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32


def permuted(weight: Tensor, heads: int) -> Tensor:
    """A query or key matrix, or bias, with its rows as GGUF has them."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def architecture(model: PreTrainedModel) -> str:
    """Its name in a GGUF file, where a Mistral is a Llama."""
    kind: str = model.config.model_type
    return "llama" if kind == "mistral" else kind


def write_gguf(model: PreTrainedModel, path: Path, kind: Any = Q8_0, **more: Any) -> None:
    """Write a model.

    Args:
        model: a Llama, Mistral, Qwen 2, Qwen 3, Phi 3 or GPT-2.
        path: of the file.
        kind: of its matrices.
        more: its `name`, further fields by their names after the architecture's, dots as two underscores, or float32
            tensors.
    """
    config: Any = model.config
    kind_of_model = architecture(model)
    writer = gguf.GGUFWriter(path, kind_of_model)
    writer.add_name(more.pop("name", "A name that belongs in no config"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if kind_of_model == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_feed_forward_length(4 * config.hidden_size)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(more.pop("rope__dimension_count", width))
        writer.add_key_length(width)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * (len(LETTERS) - 1) + [3])
    writer.add_token_merges(["Ġ a", "Ġ b"])
    writer.add_eos_token_id(len(LETTERS) - 1)
    writer.add_pad_token_id(len(LETTERS) - 1)
    for name, value in more.items():
        if isinstance(value, Tensor):
            writer.add_tensor(name.replace("__", "."), value.numpy())
        else:
            writer.add_key_value(f"{kind_of_model}.{name.replace('__', '.')}", *value)
    _add_weights(writer, model, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_weights(writer: gguf.GGUFWriter, model: PreTrainedModel, kind: Any) -> None:
    config: Any = model.config
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture(model))
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture(model) == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permuted(tensor, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D) and tensor.dim() == 2:
            tensor = tensor.T.contiguous()
        own = kind if tensor.dim() == 2 else F32
        data = gguf.quants.quantize(tensor.numpy().astype(np.float32), own)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=own)
