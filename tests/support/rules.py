"""Backward rules in the terms of transformers' modules, and gradients through their own forward."""

import torch
from support.slow import SlowModel, first


def half_gradient(x):
    """The same values; half of the gradient."""
    return 0.5 * x + 0.5 * x.detach()


def is_gated(module):
    """Whether an MLP multiplies a gate with another projection."""
    return hasattr(module, "gate_proj") or hasattr(module, "gate_up_proj")


def gated_mlp(module, x):
    """A gated MLP; where gate and up are multiplied, each gets half of its gradient."""
    if hasattr(module, "gate_up_proj"):
        gate, up = module.gate_up_proj(x).chunk(2, -1)
    else:
        gate, up = module.gate_proj(x), module.up_proj(x)
    activation = first(module, "act_fn", "activation_fn")
    return module.down_proj(half_gradient(activation(gate)) * half_gradient(up))


def norm_weight(module):
    """What a norm multiplies by."""
    return 1 + module.weight if type(module).__name__.startswith("Gemma") else module.weight


def gradients_at_outputs(hf, batch):
    """Gradients of the logit difference at every writer's output, through the modules' own forward."""
    slow = SlowModel(hf)
    outputs = {}

    def keep(name):
        def hook(module, arguments, output):
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.retain_grad()
            outputs[name] = tensor

        return hook

    for layer, block in enumerate(slow.layers):
        norms = hasattr(block, "post_feedforward_layernorm")  # after attention and MLP
        attention = block.post_attention_layernorm if norms else slow.attention(layer)
        mlp = block.post_feedforward_layernorm if norms else block.fc2 if slow.kind == "opt" else block.mlp
        attention.register_forward_hook(keep(f"a{layer}"))
        mlp.register_forward_hook(keep(f"m{layer}"))
    embedded = hf.get_input_embeddings()(batch.clean).detach().requires_grad_()
    last = hf(inputs_embeds=embedded, use_cache=False).logits[:, -1]
    rows = torch.arange(len(batch))
    (last[rows, batch.wrong_answers[:, 0, 0]] - last[rows, batch.answers[:, 0, 0]]).sum().backward()
    outputs["input"] = embedded
    return [outputs[name.split(".")[0]].grad.view_as(embedded) for name in slow.writers]
