"""Tiny models of every family, with random weights, as transformers builds them from a config."""

import torch

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "gemma2": ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    "phi3": ("Phi3", {}),
}


def tiny(family, dtype=torch.float32, **more):
    """A causal language model in eval mode, the same weights at every call."""
    import transformers

    prefix, special = FAMILIES[family]
    text = "Text" if family == "gemma3" else ""
    config = getattr(transformers, f"{prefix}{text}Config")(**{**SIZES, **special, **more})
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones and zeros would hide a wrong weight
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model.eval()


def batch():
    """input_ids and labels [2, 9], some labels ignored."""
    ids = torch.randint(3, 160, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "labels": labels}


def quantized(model):
    """The model's projections as bitsandbytes Linear4bit, double-quantized NF4."""
    import bitsandbytes

    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and name != "lm_head":
            new = bitsandbytes.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=module.weight.dtype,
                quant_type="nf4",
            )
            new.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


def with_lora(model, **more):
    """PEFT's LoRA on every projection; B is not zero, so the branch counts."""
    import peft

    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        task_type="CAUSAL_LM",
        **more,
    )
    torch.manual_seed(2)
    made = peft.get_peft_model(model, config)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return made


def step(model):
    """Loss and all gradients of one training step."""
    model.train()
    loss = model(**batch()).loss
    loss.backward()
    found = {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }
    model.zero_grad()
    model.eval()
    return loss.detach(), found


def logits(model):
    """Logits of the batch, without a gradient."""
    with torch.no_grad():
        return model(input_ids=batch()["input_ids"]).logits
