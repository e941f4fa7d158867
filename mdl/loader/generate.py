"""Generate text with a loaded model: a reply to one prompt, or a conversation."""

from collections.abc import Callable
from typing import Any

from mdl.errors import LoadError, UsageError
from mdl.loader.loaded import Loaded

Show = Callable[[str], object]


def reply_to(
    loaded: Loaded, prompt: str, max_new_tokens: int = 64, *, show: Show | None = None
) -> str:
    """The model's reply to `prompt`, decoded greedily, through its chat template if it has one.

    Args:
        show: called with each piece of the text as it is generated.

    Raises:
        LoadError: the model does not generate text, or has no tokenizer.
    """
    tokenizer = _check(loaded, "Leave out --prompt.")
    prompt = _characters(prompt)
    if _has_template(tokenizer):
        inputs = _templated(tokenizer, [{"role": "user", "content": prompt}])
    else:
        inputs = tokenizer(text=prompt, return_tensors="pt")
    pieces: list[str] = []
    _generate(loaded, inputs, pieces, show, max_new_tokens=max_new_tokens, do_sample=False)
    return "".join(pieces).strip()


class Conversation:
    """A conversation with a model, through its chat template, decoded as the model's settings say.

    Args:
        system: what to tell the model before the first message.

    Raises:
        LoadError: the model does not generate text, or has no tokenizer or chat template.
    """

    def __init__(self, loaded: Loaded, system: str | None = None) -> None:
        tokenizer = _check(loaded, "Name a model that generates text.")
        if not _has_template(tokenizer):
            raise LoadError(
                f"{loaded.report.repo_id} has no chat template, so it cannot keep a conversation.",
                why="It was trained to continue a text, or was published without its template.",
                next="`mdl load NAME --prompt TEXT` continues a text; for a conversation name a "
                "model made for it (often …-Instruct or …-it).",
            )
        self._loaded, self._tokenizer = loaded, tokenizer
        self._first = []
        if system is not None:
            self._first = [{"role": "system", "content": _characters(system)}]
        self.messages = list(self._first)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._first)

    def reply(self, text: str, max_new_tokens: int, show: Show | None = None) -> str:
        """The model's reply to a message, which both become part of the conversation.

        A KeyboardInterrupt ends the reply and is passed on; what was said until then is kept.

        Raises:
            UsageError: the conversation is longer than the model can read.
            LoadError: the chat template rejects the conversation.
        """
        asked = [*self.messages, {"role": "user", "content": _characters(text)}]
        inputs = _templated(self._tokenizer, asked)
        length, longest = inputs["input_ids"].shape[1], self._context()
        if longest is not None and length >= longest:
            raise UsageError(
                "The conversation is longer than the model can read.",
                why=f"{length} tokens of at most {longest}",
                next="/reset begins a new one.",
            )
        if longest is not None:
            max_new_tokens = min(max_new_tokens, longest - length)
        pieces: list[str] = []
        try:
            _generate(self._loaded, inputs, pieces, show, max_new_tokens=max_new_tokens)
        finally:
            reply = "".join(pieces).strip()
            if reply:
                self.messages = [*asked, {"role": "assistant", "content": reply}]
        return reply

    def _context(self) -> int | None:
        config = self._loaded.model.config
        found = getattr(config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None


def _check(loaded: Loaded, advice: str) -> Any:
    """The tokenizer of a model that generates text."""
    if loaded.tokenizer is None or not loaded.model.can_generate():
        why = "It has no tokenizer." if loaded.tokenizer is None else "It does not generate text."
        raise LoadError("The model cannot reply to a prompt.", why=why, next=advice)
    return loaded.tokenizer


def _characters(text: str) -> str:
    """Surrogates, as which Python keeps bytes that are not UTF-8, as U+FFFD: no tokenizer takes
    them."""
    return "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in text)


def _has_template(tokenizer: Any) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None


def _templated(tokenizer: Any, messages: list[dict[str, str]]) -> Any:
    """The tokens of a conversation."""
    if hasattr(tokenizer, "image_processor"):
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        try:
            return _apply_template(tokenizer, parts)
        except TypeError:  # a template for text only, which expects a string
            pass
    return _apply_template(tokenizer, messages)


def _apply_template(tokenizer: Any, messages: list[Any]) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True,
            tokenize=True,
        )  # fmt: skip
    except TemplateError as error:
        raise LoadError(
            "The model's chat template rejects the conversation.",
            why=str(error),
            next="Leave out --system: not every template takes a system message.",
        ) from error


def _generate(
    loaded: Loaded, inputs: Any, pieces: list[str], show: Show | None, **options: Any
) -> None:
    """Generate text, and add it to `pieces` as it comes."""
    import torch
    from transformers import TextStreamer

    class Streamer(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)
            if show is not None:
                show(text)

    tokenizer, model = loaded.tokenizer, loaded.model
    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.inference_mode():
        model.generate(**inputs.to(model.device), streamer=streamer, **options)
