"""Which class a checkpoint was saved from, where config.json does not say."""

from collections.abc import Iterator
from typing import Any

from mdl.loader.build.weight_names import CannotMapError, name_tensors
from mdl.loader.checkpoint import Checkpoint

# In the order in which they are tried: a class with more parts before one with fewer.
_TABLES = (
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)


def class_by_weights(checkpoint: Checkpoint, config: Any) -> type | None:
    """The class of the checkpoint's model type whose weights outside the base model are all there.

    None if there is no such class, or the weights are pickles.
    """
    if not checkpoint.tensors:
        return None
    kinds = _classes(config.model_type)
    return next((kind for kind in kinds if _has_all_heads(kind, config, checkpoint)), None)


def _classes(model_type: str) -> Iterator[type]:
    import transformers
    from transformers.models.auto import modeling_auto

    for table in _TABLES:
        found = getattr(modeling_auto, table).get(model_type, ())
        for name in (found,) if isinstance(found, str) else found:
            kind = getattr(transformers, name, None)
            if isinstance(kind, type):
                yield kind


def _has_all_heads(kind: Any, config: Any, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has every weight of a class that its base model lacks."""
    import torch

    with torch.device("meta"):
        model = kind(config)
    base = getattr(model, model.base_model_prefix, None)
    inner = set() if base is None else {id(parameter) for parameter in base.parameters()}
    model.tie_weights()
    heads = {name for name, p in model.named_parameters() if id(p) not in inner}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    empty = {name: torch.empty(tensor.shape, device="meta", dtype=torch.float32)
             for name, tensor in checkpoint.tensors.items()}  # fmt: skip
    try:
        named = name_tensors(model, empty)
    except CannotMapError:
        return False
    return heads - tied <= set(named.tensors)
