"""The forward of a language model whose training loss never holds all the logits."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch

from mdl.kernels.ops import LossOptions, fused_linear_cross_entropy
from mdl.kernels.swap.subclass import bare, signature_of


def causal_lm_forward(original: Any) -> Callable[..., Any] | None:
    """A `ForCausalLM` or `ForConditionalGeneration` with its loss fused into its head.

    While training with labels, `logits` in the output is None. In every other case, and with a
    loss function or head of the user's own, the original's forward runs. None if the original does
    not say what it returns.
    """
    signature, output_type = signature_of(original), output_type_of(original)
    if output_type is None:
        return None

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        if not takes_fused_loss(self, bound, more):
            return original.forward(self, *args, **kwargs)
        labels, inner = bound["labels"], self.model
        kind: Any = type(inner)  # mypy holds a type for unhashable
        if not takes_labels(kind):
            bound.pop("labels")
        bound.pop("self")
        bound.pop("logits_to_keep", None)
        outputs = inner(**bound, **more)
        loss = model_loss(self, outputs.last_hidden_state, labels, more)
        kept = {name: getattr(outputs, name, None) for name in _kept_fields(output_type)}
        return output_type(loss=loss, **kept)

    return forward


def output_type_of(original: Any) -> type | None:
    """The output class in the annotation of a model's forward: a dataclass with a loss."""
    said = inspect.unwrap(original.forward).__annotations__.get("return")
    for kind in typing.get_args(said) or (said,):
        if dataclasses.is_dataclass(kind) and "loss" in kind.__dataclass_fields__:
            return typing.cast(type, kind)
    return None


def _kept_fields(output_type: Any) -> list[str]:
    """What an output takes over from the inner model's."""
    return [name for name in output_type.__dataclass_fields__ if name not in ("loss", "logits")]


@functools.cache
def takes_labels(kind: Any) -> bool:
    """Whether the inner model is given the labels too, as Gemma 3's is."""
    return "labels" in signature_of(kind).parameters


def takes_fused_loss(model: Any, bound: dict[str, Any], more: dict[str, Any]) -> bool:
    """Whether a call is a training step with transformers' own loss and a plain head."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    return (
        model.training
        and torch.is_grad_enabled()
        and bound.get("labels") is not None
        and isinstance(bound.get("logits_to_keep", 0), int)
        and bound.get("logits_to_keep", 0) == 0
        and more.get("return_dict", True) is not False
        and model.config.return_dict
        and type(model.lm_head) is torch.nn.Linear
        and bare(model.lm_head)
        and model.loss_function is ForCausalLMLoss
    )


def model_loss(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, more: dict[str, Any]
) -> torch.Tensor:
    """transformers' ForCausalLMLoss, from hidden states. Token n predicts token n + 1."""
    ignore = more.get("ignore_index", -100)
    shifted = more.get("shift_labels")
    if shifted is None:
        shifted = torch.nn.functional.pad(labels, (0, 1), value=ignore)[..., 1:]
    head = model.lm_head
    cap = getattr(model.config, "final_logit_softcapping", None) or 0.0
    return fused_linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]).to(head.weight.dtype),
        head.weight,
        shifted.reshape(-1).to(hidden.device),
        head.bias,
        LossOptions(ignore_index=ignore, softcap=cap),
        count=_on(more.get("num_items_in_batch"), hidden.device),
    )


def _on(count: Any, device: torch.device) -> Any:
    return count.to(device) if isinstance(count, torch.Tensor) else count
