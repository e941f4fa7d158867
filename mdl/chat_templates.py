"""Unsloth's helpers for chat data, over the tokenizer's own template.

`get_chat_template`, `standardize_sharegpt`, `standardize_data_formats` and
`train_on_responses_only`, under Unsloth's names and arguments. Nothing here imports torch or TRL.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mdl.errors import UsageError

log = logging.getLogger("mdl")

IGNORED = -100  # the label of a token that is not trained on
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Under what names data sets hold a message's role and content, and the roles themselves.
_KEYS = (("from", "value"), ("role", "content"))
SYSTEM, USER, ASSISTANT = ("system",), ("user", "human", "input"), ("gpt", "assistant", "output")


def get_chat_template(
    tokenizer: Any,
    chat_template: str | Sequence[str] = "chatml",
    mapping: Mapping[str, str] | None = None,
    map_eos_token: bool = True,
    system_message: str | None = None,
) -> Any:
    """The tokenizer (or processor) with a chat template; its own is kept if it has one.

    Args:
        chat_template: Jinja, which is set; or a name, such as `llama-3.1`. Names stand for
            templates that come with instruct models, so a tokenizer with a template keeps it.
            `chatml` gives a tokenizer without one ChatML, if it has ChatML's tokens.
        mapping: only roles and contents under their usual names.
        map_eos_token: with `chatml`, end generation at `<|im_end|>`.
        system_message: not supported; put it into the data.

    Raises:
        UsageError: the tokenizer has no template and the name gives none, or other names are to be
            mapped.
    """
    if any(key != value for key, value in (mapping or {}).items()):
        raise UsageError(
            f"get_chat_template does not map {dict(mapping or {})}.",
            next="Convert the data: dataset = standardize_sharegpt(dataset).",
        )
    if system_message is not None:
        raise UsageError(
            "get_chat_template does not set a system message.",
            next="Put it into each conversation: {'role': 'system', 'content': …}.",
        )
    name = chat_template if isinstance(chat_template, str) else chat_template[0]
    if "{%" in name or "{{" in name:
        tokenizer.chat_template = name
        return tokenizer
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer.chat_template is not None:
        log.info("The tokenizer's own chat template is used, not Unsloth's %r.", name)
    elif name == "chatml" and "<|im_end|>" in inner.get_vocab():
        tokenizer.chat_template = CHATML
        if map_eos_token:
            inner.eos_token = "<|im_end|>"
    else:
        raise UsageError(
            f"The tokenizer has no chat template, and {name!r} is not one for it.",
            why="New special tokens would need new embeddings.",
            next="Load the instruct model, or pass a Jinja template.",
        )
    return tokenizer


def standardize_data_formats(
    dataset: Any,
    tokenizer: Any = None,
    aliases_for_system: Iterable[str] = SYSTEM,
    aliases_for_user: Iterable[str] = USER,
    aliases_for_assistant: Iterable[str] = ASSISTANT,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> Any:
    """Conversations as lists of `{"role", "content"}`, from ShareGPT's `{"from", "value"}` too.

    Args:
        dataset: a `datasets.Dataset` (or a dictionary of them), or a list of rows, with a column
            `conversations` or `messages`.
        tokenizer: a processor makes contents lists, as templates of vision models want them.

    Raises:
        UsageError: there is no such column, or it has an unknown role.
    """
    if isinstance(dataset, Mapping):  # a DatasetDict
        made = {
            split: standardize_data_formats(
                part, tokenizer, aliases_for_system, aliases_for_user, aliases_for_assistant,
                batch_size, num_proc,
            )
            for split, part in dataset.items()
        }  # fmt: skip
        kind: Any = type(dataset)
        return kind(made)
    roles = dict.fromkeys(aliases_for_system, "system")
    roles |= dict.fromkeys(aliases_for_user, "user")
    roles |= dict.fromkeys(aliases_for_assistant, "assistant")
    as_list = hasattr(tokenizer, "image_processor")
    columns = dataset[0].keys() if isinstance(dataset, list) else dataset.column_names
    column = next((name for name in ("conversations", "messages") if name in columns), None)
    if column is None:
        raise UsageError(
            "The data set has no column of conversations.",
            why=f"Its columns are {', '.join(columns)}.",
            next="Name the column of conversations `conversations` or `messages`.",
        )

    def standardized(row: Mapping[str, Any]) -> dict[str, Any]:
        return {column: [_message(each, roles, as_list=as_list) for each in row[column]]}

    if isinstance(dataset, list):
        return [{**row, **standardized(row)} for row in dataset]
    # Under another name first: a new layout of the same column would be merged with its old one.
    made = dataset.map(
        lambda row: {"_mdl": standardized(row)[column]}, remove_columns=[column],
        num_proc=num_proc, desc="Standardizing conversations",
    )  # fmt: skip
    return made.rename_column("_mdl", column)


standardize_sharegpt = standardize_data_formats  # Unsloth's older name


def _message(message: Mapping[str, Any], roles: Mapping[str, str], *, as_list: bool) -> Any:
    for role_key, content_key in _KEYS:
        if message.get(role_key) is not None:
            role, content = roles.get(message[role_key]), message.get(content_key)
            if role is None:
                raise UsageError(
                    f"Unknown role {message[role_key]!r}.",
                    next="Pass it in aliases_for_user, aliases_for_assistant or "
                    "aliases_for_system.",
                )
            if as_list and isinstance(content, str):
                content = [{"type": "text", "text": content}]
            return {"role": role, "content": content}
    raise UsageError(
        f"A message has the keys {', '.join(message)}.", next="Use role and content, or from and "
        "value.",
    )  # fmt: skip


def train_on_responses_only(
    trainer: Any,
    instruction_part: str | None = None,
    response_part: str | None = None,
    *,
    tokenizer: Any = None,
    return_function: bool = False,
    num_proc: int | None = None,
    force_match: bool = True,
    last_response_only: bool = False,
) -> Any:
    """Have a trainer learn responses only: a `labels` column without the other tokens.

    Args:
        trainer: a `trl.SFTTrainer` whose data sets are tokenized (`input_ids`), not packed.
        instruction_part, response_part: what stands before a user's and an assistant's words; by
            default as the tokenizer's chat template has it.
        return_function: return the function from rows to labels instead of the trainer.
        last_response_only: of each conversation, learn the last response.

    Raises:
        UsageError: the template shows no markers, or no row has a response.
    """
    tokenizer = tokenizer or trainer.processing_class
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if instruction_part is None or response_part is None:
        instruction_part, response_part = markers(tokenizer)
    pieces: dict[int, str] = {}
    instruction, response = (
        "".join(_pieces(tokenizer(part, add_special_tokens=False)["input_ids"], tokenizer, pieces))
        for part in (instruction_part, response_part)
    )

    def labels_of(row: Mapping[str, Any]) -> dict[str, list[Any]]:
        ids = row["input_ids"]
        if len(ids) and not isinstance(ids[0], int):  # a batch
            return {"labels": [labels_of({"input_ids": each})["labels"] for each in ids]}
        texts = _pieces(ids, tokenizer, pieces)
        spans = response_spans("".join(texts), instruction, response)
        return {"labels": mask(ids, texts, spans[-1:] if last_response_only else spans)}

    if return_function:
        return labels_of
    for name in ("train_dataset", "eval_dataset"):
        dataset = getattr(trainer, name, None)
        if isinstance(dataset, Mapping):
            labelled = {k: _labelled(v, labels_of, response_part, num_proc)
                        for k, v in dataset.items()}  # fmt: skip
            setattr(trainer, name, labelled)
        elif dataset is not None:
            setattr(trainer, name, _labelled(dataset, labels_of, response_part, num_proc))
    return trainer


def _labelled(dataset: Any, labels_of: Any, response_part: str, num_proc: int | None) -> Any:
    made = dataset.map(labels_of, num_proc=num_proc, desc="Masking all but responses")
    trained = any(label != IGNORED for row in made for label in row["labels"])
    if not trained:
        raise UsageError(
            "No row of the data set has a response.",
            why=f"None contains {response_part!r}, so that nothing would be learned.",
            next="Pass response_part as the chat template writes it.",
        )
    return made


def markers(tokenizer: Any) -> tuple[str, str]:
    """What a chat template writes before a user's and before an assistant's words.

    Raises:
        UsageError: the tokenizer has no template, or none that shows them.
    """
    if tokenizer.chat_template is None:
        raise UsageError(
            "The tokenizer has no chat template.",
            next="Pass instruction_part and response_part, or set a template first.",
        )
    user, reply, more = "First question", "First reply", "Second question"

    def render(*contents: str, prompt: bool = False) -> str:
        roles = ("user", "assistant", "user")
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
        return text

    asked, replied = render(user), render(user, reply)
    ending = replied.partition(reply)[2]
    between = render(user, reply, more).partition(reply)[2].partition(more)[0]
    instruction = between.removeprefix(ending)
    response = render(user, prompt=True).removeprefix(asked)
    if not response:  # a template without a generation prompt
        response = replied.partition(user)[2].partition(reply)[0]
    if not instruction.strip() or not response.strip():
        raise UsageError(
            "The chat template shows no markers of instructions and responses.",
            next="Pass instruction_part and response_part.",
        )
    return instruction, response


def response_spans(text: str, instruction: str, response: str) -> list[tuple[int, int]]:
    """Where responses are in a text: from behind a response marker to the next instruction."""
    spans = []
    start = text.find(response)
    while start >= 0:
        start += len(response)
        end = text.find(instruction, start)
        end = len(text) if end < 0 else end
        spans.append((start, end))
        start = text.find(response, end)
    return spans


def mask(ids: Sequence[int], texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int]:
    """The labels: ids of tokens with a character inside a span, `IGNORED` for the others."""
    labels, at = [], 0
    for token, text in zip(ids, texts, strict=True):
        inside = any(start < at + len(text) and at < end for start, end in spans)
        labels.append(int(token) if inside else IGNORED)
        at += len(text)
    return labels


def _pieces(ids: Iterable[int], tokenizer: Any, known: dict[int, str]) -> list[str]:
    """The text of each token."""
    for token in set(ids) - known.keys():
        known[token] = tokenizer.decode([token], skip_special_tokens=False)
    return [known[token] for token in ids]
