"""What the reference makes of a folder, what mdl makes of it, and how the two are compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import torch
import transformers

import mdl
from mdl.errors import MdlError
from tests.corpus.opened import Opened
from tests.corpus.shape import Shape

TEXT = "The capital of France is Paris. <|eos|> naïve 東京"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
NARROW = (torch.uint8, torch.int8, torch.float8_e4m3fn)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5", ".ot")
NF4 = transformers.BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)  # fmt: skip


@dataclass
class Outcome:
    """A model and tokenizer, or why there is none. `opened` are the files read on the way."""

    refused: str = ""
    error: BaseException | None = None
    model: Any = None
    words: Any = None
    report: Any = None
    opened: set[str] = field(default_factory=set)

    @property
    def facts(self) -> dict[str, Any]:
        """What has to be equal, but for the weights."""
        base = self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model
        return {
            "class": type(self.model).__name__,
            "base class": type(base).__name__,
            "dtype": str(base.dtype),
            "tied": bool(getattr(base, "_tied_weights_keys", None)) and tied(base),
            "quantized": sorted(name for name, p in base.named_parameters() if p.dtype in NARROW),
            "training": self.model.training,
            "generation": plain(getattr(base, "generation_config", None)),
            "tokenizer": words_of(self.words),
            "weight files": weights_in(self.opened),
        }


def plain(value: Any) -> dict[str, Any]:
    table = {} if value is None else value.to_dict()
    kept = ("transformers_version", "_from_model_config")
    return {k: v for k, v in table.items() if v is not None and k not in kept}


def tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def words_of(words: Any) -> dict[str, Any]:
    """A tokenizer, or a processor and its tokenizer, by what it does."""
    if words is None:
        return {}
    tokens = getattr(words, "tokenizer", words)
    found: dict[str, Any] = {"class": type(words).__name__, "inner": type(tokens).__name__}
    if hasattr(tokens, "get_vocab"):
        found |= {
            "vocabulary": tokens.get_vocab(),
            "ids": tokens(TEXT).input_ids,
            "special": tokens.special_tokens_map,
            "template": getattr(words, "chat_template", None),
            "side": tokens.padding_side,
        }
    return found


def weights_in(paths: set[str]) -> set[str]:
    return {path for path in paths if path.endswith(WEIGHTS)}


def attempt(folder: Path, load: Callable[[], tuple[Any, Any, Any]]) -> Outcome:
    with Opened(folder) as opened:
        try:
            model, words, report = load()
        except Exception as error:
            outcome = Outcome(refused=f"{type(error).__name__}: {error}", error=error)
        else:
            outcome = Outcome(model=model, words=words, report=report)
    outcome.opened = opened.paths
    return outcome


def theirs(shape: Shape, folder: Path) -> Outcome:
    """The model and the tokenizer as transformers or PEFT load them."""

    def load() -> tuple[Any, Any, Any]:
        options = dict(shape.theirs)
        if options.get("quantization_config") == "nf4":
            options["quantization_config"] = NF4
        kind: Any = getattr(transformers, shape.auto, None) or getattr(peft, shape.auto)
        model = kind.from_pretrained(folder, **options)
        if any((folder / name).exists() for name in PROCESSOR_FILES):
            return model, transformers.AutoProcessor.from_pretrained(folder), None
        source = folder
        if shape.auto in dir(peft) and not (folder / "tokenizer_config.json").exists():
            source = Path(model.get_base_model().config.name_or_path)
        try:
            words = transformers.AutoTokenizer.from_pretrained(source)
        except Exception:
            if any(source.glob("*token*")) or any(source.glob("*vocab*")):
                raise
            words = None  # a model without a tokenizer
        return model, words, None

    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return attempt(folder, load)
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def ours(shape: Shape, name: str | Path, folder: Path, **options: Any) -> Outcome:
    """The same as mdl loads them, by the folder or by the repository's name."""

    def load() -> tuple[Any, Any, Any]:
        loaded = mdl.load(str(name), **shape.options, **options)
        return loaded.model, loaded.tokenizer, loaded.report

    return attempt(folder, load)


def differences(theirs: Outcome, ours: Outcome) -> list[str]:
    """What two loaded models differ in, in words."""
    ours_facts = ours.facts
    found = [
        f"{name}: {ours_facts[name]!r}, the reference has {value!r}"[:600]
        for name, value in theirs.facts.items()
        if ours_facts[name] != value
    ]
    one, other = theirs.model.state_dict(), ours.model.state_dict()
    found += [f"{name} is in one of both" for name in sorted(set(one) ^ set(other))]
    found += [
        f"{name}: other bits" for name in set(one) & set(other) if not same(one[name], other[name])
    ]
    return found


def same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(bits(one), bits(other))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def said(outcome: Outcome) -> str:
    """Everything mdl said: its refusal, or its warnings."""
    error = outcome.error
    if isinstance(error, MdlError):
        return f"{error.message} {error.why} {error.next}"
    return " ".join(outcome.report.warnings) if outcome.report else outcome.refused


def judge(shape: Shape, theirs: Outcome, ours: Outcome) -> list[str]:
    """What is wrong with mdl's outcome, held against the reference and the table."""
    if ours.error is not None and not isinstance(ours.error, MdlError):
        return [f"no MdlError: {ours.refused}"]
    found = []
    if shape.mdl != "loads" and (shape.mdl == "refuses" or theirs.refused):
        if not ours.refused:
            found.append(f"it loads; {shape.because or theirs.refused}")
    elif ours.refused:
        found.append(f"it is refused: {said(ours)}")
    elif not theirs.refused:
        found += differences(theirs, ours)
    if not re.search(shape.says, said(ours)):
        found.append(f"{shape.says!r} is not said: {said(ours)!r}")
    if ours.report is not None and not ours.report.adapter:
        named = {file.path for file in ours.report.files}
        if weights_in(named) != weights_in(ours.opened):
            found.append(f"reported {weights_in(named)}, opened {weights_in(ours.opened)}")
    return found
