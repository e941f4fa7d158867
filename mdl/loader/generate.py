"""Generate a reply to one prompt: the quickest check that a loaded model works."""

from typing import Any

from mdl.errors import LoadError
from mdl.loader.loaded import Loaded


def reply_to(loaded: Loaded, prompt: str, max_new_tokens: int = 64) -> str:
    """The model's reply to `prompt`, decoded greedily, through its chat template if it has one.

    Raises:
        LoadError: the model does not generate text, or has no tokenizer.
    """
    import torch

    model, tokenizer = loaded.model, loaded.tokenizer
    if tokenizer is None or not model.can_generate():
        raise LoadError(
            "The model cannot reply to a prompt.",
            why="It has no tokenizer." if tokenizer is None else "It does not generate text.",
            next="Leave out --prompt.",
        )
    inputs = _inputs(tokenizer, prompt).to(model.device)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    reply: str = tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return reply.strip()


def _inputs(tokenizer: Any, prompt: str) -> Any:
    if getattr(tokenizer, "chat_template", None) is None:
        return tokenizer(text=prompt, return_tensors="pt")
    if hasattr(tokenizer, "image_processor"):
        try:
            return _chat(tokenizer, [{"type": "text", "text": prompt}])
        except TypeError:  # a template for text only, which expects a string
            pass
    return _chat(tokenizer, prompt)


def _chat(tokenizer: Any, content: Any) -> Any:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        tokenize=True,
    )
