"""Tiny random models of every family, and random prompts for them."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.tracr import TracrConfig, TracrLMHeadModel

VOCABULARY = 37

LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GEMMA2 = {
    **LLAMA,
    "head_dim": 6,
    "query_pre_attn_scalar": 5,
    "sliding_window": 3,
    "attn_logit_softcapping": 0.7,
    "final_logit_softcapping": 2.0,
}
HALF_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
_NEOX = {**LLAMA, **HALF_ROTARY}
del _NEOX["num_key_value_heads"]
OPT = {name: LLAMA[name] for name in LLAMA.keys() - {"intermediate_size", "num_key_value_heads"}} | {"ffn_dim": 24}
GPTJ = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}

VARIANTS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=3, n_positions=64)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_NEOX)),
    "gpt_neox_serial": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**_NEOX, use_parallel_residual=False, attention_bias=False)
    ),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**LLAMA, head_dim=6)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GEMMA2)),
    "gemma2_untied": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GEMMA2 | {"tie_word_embeddings": False, "attn_logit_softcapping": None})
    ),
    "gemma3_text": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GEMMA2 | {"layer_types": ["sliding_attention", "full_attention"]})
    ),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**LLAMA)),
    "gptj": lambda: GPTJForCausalLM(GPTJConfig(**GPTJ, rotary_dim=2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama_biased": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=6)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=3)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**LLAMA, **HALF_ROTARY, qk_layernorm=True)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**LLAMA, **HALF_ROTARY, sliding_window=3, pad_token_id=0)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**LLAMA, use_sliding_window=True, sliding_window=3, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8)),
    "tracr": lambda: TracrLMHeadModel(
        TracrConfig(
            vocab_size=VOCABULARY,
            outputs=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=3,
            head_dim=6,
            intermediate_size=20,
            max_position_embeddings=64,
        )
    ),
}
"""One maker a family, and the variants within it that take another path."""


def tiny_hf(variant: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random model, its weights large enough that attention and norms are far from linear."""
    torch.manual_seed(seed)
    return with_large_weights(VARIANTS[variant]()).to(dtype).eval()


def with_large_weights(model: PreTrainedModel) -> PreTrainedModel:
    """The model with random weights, made in the state of torch's generator."""
    centre = 0.0 if "gemma" in model.config.model_type else 1.0  # Gemma's norms multiply by 1 + weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and ("norm" in name or ".ln_" in name) and name.endswith("weight"):
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                fan = parameter.shape[-1] if parameter.ndim > 1 else 10
                parameter.copy_(torch.randn_like(parameter) * (0.8 if parameter.ndim > 1 else 1) * fan**-0.5)
    return model


def tiny(
    variant: str, seed: int = 0, dtype: torch.dtype = torch.float64, kv: str = "group", positions: str = "constant"
) -> CircuitModel:
    """The same as a `CircuitModel`."""
    return CircuitModel.from_model(tiny_hf(variant, seed, dtype), kv=kv, positions=positions)


def random_batch(
    seed: int = 0, lengths: tuple[int, ...] = (5, 7, 6), positions: int = 1, answers: int = 1, missing: int = 0
) -> PromptBatch:
    """Random pairs that part in the middle and share their last token; the first lacks `missing` positions."""
    generator = torch.Generator("cpu").manual_seed(seed)
    clean, corrupted = [], []
    for length in lengths:
        one = torch.randint(VOCABULARY, (length,), generator=generator, device="cpu")
        other = one.clone()
        other[length // 3 : length - 1] = torch.randint(
            VOCABULARY, (length - 1 - length // 3,), generator=generator, device="cpu"
        )
        clean.append(one.tolist())
        corrupted.append(other.tolist())
    tokens = torch.randint(VOCABULARY, (2, len(lengths), positions, answers), generator=generator, device="cpu")
    while (clash := (tokens[1][..., None] == tokens[0][..., None, :]).any(-1)).any():
        tokens[1][clash] = (tokens[1][clash] + 1) % VOCABULARY  # no token is both right and wrong
    where = [list(range(-positions, 0)) for _ in lengths]
    right, wrong = tokens.tolist()
    for rows in (where, right, wrong):
        del rows[0][:missing]
    return PromptBatch.from_ids(clean, corrupted, right, wrong, answer_positions=where)


@torch.no_grad()
def answer_logits_alone(hf: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """A transformers model's logits `[B, A, V]`, each prompt run without padding, which makes some models' NaN."""
    found = []
    for ids, real, where in zip(batch.clean, batch.mask, batch.read_positions, strict=True):
        found.append(hf(ids[real][None]).logits[0, where - int((~real).sum())])
    return torch.stack(found)
