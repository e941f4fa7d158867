"""`UnslothVisionDataCollator`, over TRL's collator for vision-language models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mdl.errors import UsageError
from mdl.version import install_command


class UnslothVisionDataCollator:
    """Batches of conversations with images, with labels; TRL's collator does the work.

    Args:
        model: not used; Unsloth takes it.
        processor: the model's processor.
        max_seq_length: truncate to this many tokens.
        formatting_func: from a row to `{"messages": …}`.
        train_on_responses_only: learn the assistant's turns only.
        instruction_part, response_part: as in `mdl.chat_templates.train_on_responses_only`.

    A row has `messages`, whose contents may hold images (`{"type": "image", "image": …}`), or
    `messages` with placeholders and `images` beside them.

    Raises:
        UsageError: the processor takes no images, or TRL is not installed.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        max_seq_length: int | None = None,
        formatting_func: Callable[[Any], Any] | None = None,
        *,
        train_on_responses_only: bool = False,
        instruction_part: str | None = None,
        response_part: str | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        try:
            from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
        except ImportError as error:
            raise UsageError(
                "UnslothVisionDataCollator needs TRL.", next=f"Run: {install_command('train')}"
            ) from error
        if not hasattr(processor, "image_processor"):
            raise UsageError(
                "The processor takes no images.", next="Load the model with FastVisionModel."
            )
        self._formatting = formatting_func
        self._collate = DataCollatorForVisionLanguageModeling(
            processor, max_length=max_seq_length, pad_to_multiple_of=pad_to_multiple_of
        )
        self._labels = None
        if train_on_responses_only:
            from mdl import chat_templates

            self._labels = chat_templates.train_on_responses_only(
                None, instruction_part, response_part, tokenizer=processor, return_function=True
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch: `input_ids`, `attention_mask`, `labels` and what the processor adds."""
        if self._formatting is not None:
            rows = [self._formatting(row) for row in rows]
        batch: dict[str, Any] = self._collate([_row(row) for row in rows])
        if self._labels is not None:
            import torch

            labels = torch.tensor(
                self._labels({"input_ids": batch["input_ids"].tolist()})["labels"]
            )
            batch["labels"] = torch.where(batch["labels"] == -100, -100, labels)
        return batch


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as TRL takes it. Arrow gives every part of a content all keys; those of None go."""
    messages = [
        {
            "role": message["role"],
            "content": message["content"]
            if isinstance(message["content"], str)
            else [{k: v for k, v in part.items() if v is not None} for part in message["content"]],
        }
        for message in row["messages"]
    ]
    images = row.get("images") or ([row["image"]] if row.get("image") is not None else [])
    return {"messages": messages, "images": list(images)}
