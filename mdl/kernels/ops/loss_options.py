"""Options of the cross-entropy losses."""

from dataclasses import dataclass

import torch

from mdl.errors import UsageError


@dataclass(frozen=True)
class LossOptions:
    """Every option off by default.

    Args:
        ignore_index: rows with this label count for nothing.
        label_smoothing: in [0, 1); that share of the target is spread over the vocabulary.
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2); 0: as they are.
        logit_scale: logits are multiplied by it first (Cohere, Granite).
        z_loss: weight of the squared log-sum-exp added to the loss.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    softcap: float = 0.0
    logit_scale: float = 1.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0 or self.softcap < 0.0 or self.z_loss < 0.0:
            raise UsageError(
                "These loss options make no loss.",
                why=str(self),
                next="label_smoothing is in [0, 1); softcap and z_loss are not negative.",
            )

    def flat(self) -> tuple[int, float, float, float, float]:
        """The options as a custom operator can take them."""
        return (
            self.ignore_index,
            self.label_smoothing,
            self.softcap,
            self.logit_scale,
            self.z_loss,
        )


def check_labels(rows: int, labels: torch.Tensor) -> None:
    """Refuse labels that are not one integer a row.

    Raises:
        UsageError: another shape or a floating dtype.
    """
    if labels.shape != (rows,) or labels.dtype != torch.int64:
        raise UsageError(
            f"Labels of shape {list(labels.shape)} and {labels.dtype} do not fit {rows} rows.",
            next="Give one int64 label a row.",
        )
