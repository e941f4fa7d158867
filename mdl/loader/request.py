"""A load request as one value, with its quantization settings."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mdl.errors import UsageError
from mdl.formats import LOADS, claimed_format, parse_format
from mdl.store import LOADABLE_FORMATS, STORED_FORMATS

DTYPES = ("bfloat16", "float16", "float32", "float64")
STORAGES = ("uint8", "bfloat16", "float16", "float32", "float64", "int8")
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
TASKS = ("auto", "text", "vision", "sequence-classification", "encoder")


def dtype_name(dtype: Any) -> str | None:
    """`bfloat16` for torch.bfloat16, "bf16", "torch.bfloat16"; None for None and "auto".

    Raises:
        UsageError: a model cannot be loaded in this dtype.
    """
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in DTYPES:
        raise UsageError(f"Cannot load in dtype {dtype!r}.", next=f"Use {', '.join(DTYPES)}.")
    return name


@dataclass(frozen=True)
class Quantization:
    """Settings for quantizing to 4 bits on load, under bitsandbytes' own names.

    `compute_dtype` None is the dtype the model is loaded in. `storage` other than `uint8` lets
    FSDP shard the packed weights. `skip_modules` None skips what transformers skips by default
    (the output head and tied weights).
    """

    quant_type: str = "nf4"
    double_quant: bool = True
    compute_dtype: str | None = None
    storage: str = "uint8"
    skip_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.quant_type not in ("nf4", "fp4"):
            raise UsageError(
                f"Unknown 4-bit quantization type {self.quant_type!r}.", next="Use nf4 or fp4."
            )
        if self.storage not in STORAGES:
            raise UsageError(
                f"Cannot store packed weights as {self.storage!r}.",
                next=f"Use one of {', '.join(STORAGES)}.",
            )
        object.__setattr__(self, "compute_dtype", dtype_name(self.compute_dtype))

    def to_config(self, dtype: str) -> dict[str, Any]:
        """The `quantization_config` of a checkpoint with these settings, computing in `dtype`."""
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": self.quant_type,
            "bnb_4bit_use_double_quant": self.double_quant,
            "bnb_4bit_compute_dtype": self.compute_dtype or dtype,
            "bnb_4bit_quant_storage": self.storage,
            "llm_int8_skip_modules": list(self.skip_modules) if self.skip_modules else None,
        }


@dataclass(frozen=True)
class LoadRequest:
    """One request for a model. `extra` is passed on to transformers' `from_pretrained`.

    `format` is the format of the weights to load, and `variant` which of a stored format's; both
    can be given as `format="gguf:Q4_K_M"`. `exact_name` allows no other repository than the one
    named: a 4-bit request then quantizes that very repository on load. `base` is the model to put
    an adapter on, if not the one that the adapter names. `locked` is the path of a lock file that
    pins the commit. `any_publisher` takes stored formats from publishers who are not on the trust
    list. `allow_dequantize` accepts floats where this machine cannot compute in the stored format.
    """

    name: str
    format: str = "16bit"
    exact_name: bool = False
    base: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantization: Quantization = Quantization()
    task: str = "auto"
    device_map: Any = None
    max_seq_length: int | None = None
    kernels: bool | str | tuple[str, ...] = True
    trust_remote_code: bool = False
    allow_pickle: bool = False
    quantize_once: bool = True
    check_memory: bool = True
    variant: str | None = None
    allow_dequantize: bool = False
    any_publisher: bool = False
    offline: bool | None = None
    prefer: str | None = None
    locked: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        asked = parse_format(self.format)
        check_loadable(asked.format)
        object.__setattr__(self, "format", asked.format)
        object.__setattr__(self, "variant", asked.variant or self.variant)
        if self.task not in TASKS:
            raise UsageError(f"Unknown task {self.task!r}.", next=f"Use one of {', '.join(TASKS)}.")
        tokens = self.max_seq_length
        if tokens is not None and not (type(tokens) is int and tokens > 0):
            raise UsageError(
                f"max_seq_length={tokens!r} is not a number of tokens.",
                next="Pass a positive integer, or leave it out.",
            )

    @property
    def wants_4bit(self) -> bool:
        return self.format == "bnb-4bit"

    def to_json(self) -> dict[str, Any]:
        """The request without its token, for the report."""
        table = {key: value for key, value in asdict(self).items() if key not in ("token", "extra")}
        table["device_map"] = self.device_map if _plain(self.device_map) else str(self.device_map)
        table["extra"] = {key: v if _plain(v) else str(v) for key, v in self.extra.items()}
        return table


def named_format(name: str) -> str:
    """The stored format that a repository's name names (`…-AWQ`, `…-GGUF`), else `16bit`."""
    claimed = claimed_format(name)
    return claimed if claimed in STORED_FORMATS else "16bit"


def is_loadable(format: str) -> bool:
    """Whether mdl makes a format on load, or transformers reads it as it is stored."""
    return format in LOADABLE_FORMATS or "transformers" in LOADS.get(format, ())


def check_loadable(format: str) -> None:
    """Reject a stored format that is for other programs.

    Raises:
        UsageError: transformers does not load it.
    """
    if not is_loadable(format):
        raise UsageError(
            f"mdl does not load {format}.",
            why=f"It is for {', '.join(LOADS.get(format, ())) or 'other programs'}; transformers "
            "does not read it.",
            next="`mdl pull` with the same options downloads it for another program.",
        )


def one_format(
    format: str | None = None,
    *,
    in_4bit: bool = False,
    in_8bit: bool = False,
    in_16bit: bool = False,
    fp8: Any = False,
) -> str | None:
    """The format that `format` or the `load_in_*` arguments ask for; None if none does.

    Raises:
        UsageError: two of them exclude each other, or there is no such format.
    """
    flags = {"bnb-4bit": in_4bit, "8bit": in_8bit, "16bit": in_16bit, "fp8": bool(fp8)}
    chosen = [name for name, wanted in flags.items() if wanted]
    if format is not None:
        chosen.append(parse_format(format).text)
    if len(set(chosen)) > 1:
        raise UsageError(
            f"Choose one format: {', '.join(chosen)} were requested.",
            next="Leave out all but one.",
        )
    return chosen[0] if chosen else None


def from_bnb_config(config: Any) -> tuple[Quantization | None, str | None]:
    """The settings in a `BitsAndBytesConfig` (or its dict), and the format it asks for.

    Raises:
        UsageError: it is for another quantization method.
    """
    table: dict[str, Any] = dict(config if isinstance(config, Mapping) else config.to_dict())
    if table.get("quant_method", "bitsandbytes") not in ("bitsandbytes", None):
        raise UsageError(
            f"Cannot quantize with {table['quant_method']!r} while loading.",
            next="Load a repository that is already quantized that way, by its exact name.",
        )
    if table.get("load_in_8bit"):
        return None, "8bit"
    if not table.get("load_in_4bit"):
        return None, None
    skip = table.get("llm_int8_skip_modules")
    compute = table.get("bnb_4bit_compute_dtype")
    settings = Quantization(
        quant_type=table.get("bnb_4bit_quant_type", "fp4"),
        double_quant=bool(table.get("bnb_4bit_use_double_quant", False)),
        compute_dtype=re.sub(r"^torch\.", "", str(compute)) if compute is not None else None,
        storage=re.sub(r"^torch\.", "", str(table.get("bnb_4bit_quant_storage") or "uint8")),
        skip_modules=tuple(skip) if skip else None,
    )
    return settings, "bnb-4bit"


def _plain(value: Any) -> bool:
    """Whether the value has JSON's types only."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))
