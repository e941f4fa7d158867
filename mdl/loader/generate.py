"""Ask a loaded model one thing: the smallest proof that it answers."""

from typing import Any

from mdl.errors import LoadError
from mdl.loader.pipeline import Loaded


def answer_prompt(loaded: Loaded, prompt: str, max_new_tokens: int = 64) -> str:
    """The model's answer to `prompt`, chosen greedily, through its chat template if it has one.

    Raises:
        LoadError: the model generates no text, or has no tokenizer.
    """
    import torch

    model, tokenizer = loaded.model, loaded.tokenizer
    if tokenizer is None or not model.can_generate():
        raise LoadError(
            "The model cannot answer a prompt.",
            why="It has no tokenizer." if tokenizer is None else "It generates no text.",
            next="Leave out --prompt.",
        )
    inputs = _inputs(tokenizer, prompt).to(model.device)
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answer: str = tokenizer.decode(
        made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return answer.strip()


def _inputs(tokenizer: Any, prompt: str) -> Any:
    if getattr(tokenizer, "chat_template", None) is None:
        return tokenizer(text=prompt, return_tensors="pt")
    if hasattr(tokenizer, "image_processor"):
        try:
            return _chat(tokenizer, [{"type": "text", "text": prompt}])
        except TypeError:  # a template for text alone, which adds the content to a string
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
