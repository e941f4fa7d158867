"""What a caller asks of the loader, as one value, and the quantization it implies."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mdl.errors import UsageError

FORMATS = ("16bit", "bnb-4bit", "8bit", "fp8")
DTYPES = ("bfloat16", "float16", "float32", "float64")
STORAGES = ("uint8", "bfloat16", "float16", "float32", "float64", "int8")
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
TASKS = ("auto", "text", "vision", "sequence-classification", "encoder")


def dtype_name(dtype: Any) -> str | None:
    """`bfloat16` for torch.bfloat16, "bf16", "torch.bfloat16"; None for None and "auto".

    Raises:
        UsageError: not a floating-point dtype to load a model in.
    """
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in DTYPES:
        raise UsageError(f"{dtype!r} is no dtype to load in.", next=f"Use {', '.join(DTYPES)}.")
    return name


@dataclass(frozen=True)
class Quantization:
    """Settings of a bitsandbytes 4-bit quantization on load; the names are bitsandbytes' own.

    `compute_dtype` None is the dtype the model is loaded in. `storage` other than `uint8` makes
    the packed weights shardable by FSDP. `skip_modules` None leaves out what transformers
    leaves out by itself (the output head and tied weights).
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
                f"{self.storage!r} is no dtype to store packed weights in.",
                next=f"Use one of {', '.join(STORAGES)}.",
            )
        object.__setattr__(self, "compute_dtype", dtype_name(self.compute_dtype))

    def to_config(self, dtype: str) -> dict[str, Any]:
        """The `quantization_config` of a checkpoint quantized this way and computed in `dtype`."""
        compute = self.compute_dtype or dtype
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": self.quant_type,
            "bnb_4bit_use_double_quant": self.double_quant,
            "bnb_4bit_compute_dtype": compute,
            "bnb_4bit_quant_storage": self.storage,
            "llm_int8_skip_modules": list(self.skip_modules) if self.skip_modules else None,
        }


@dataclass(frozen=True)
class LoadRequest:
    """One request for a model. `extra` goes to transformers' `from_pretrained` as it is.

    `format` says how the weights are wanted; `exact_name` forbids any other repository than the
    one named, so a 4-bit request with an exact name quantizes that very repository on load.
    `locked` is the path of a lock file that says which commit it must be.
    """

    name: str
    format: str = "16bit"
    exact_name: bool = False
    revision: str | None = None
    dtype: str | None = None
    quantization: Quantization = Quantization()
    task: str = "auto"
    device_map: Any = None
    max_seq_length: int | None = None
    kernels: bool | tuple[str, ...] = True
    trust_remote_code: bool = False
    allow_pickle: bool = False
    quantize_once: bool = True
    check_memory: bool = True
    offline: bool | None = None
    prefer: str | None = None
    locked: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(
                f"Unknown format {self.format!r}.", next=f"Use one of {', '.join(FORMATS)}."
            )
        if self.task not in TASKS:
            raise UsageError(f"Unknown task {self.task!r}.", next=f"Use one of {', '.join(TASKS)}.")
        tokens = self.max_seq_length
        if tokens is not None and not (type(tokens) is int and tokens > 0):
            raise UsageError(
                f"max_seq_length={tokens!r} is no number of tokens.",
                next="Give a whole number above 0, or leave it out.",
            )

    @property
    def wants_4bit(self) -> bool:
        return self.format == "bnb-4bit"

    def to_json(self) -> dict[str, Any]:
        """The request without its token, as the report keeps it."""
        shown = {key: value for key, value in asdict(self).items() if key not in ("token", "extra")}
        shown["device_map"] = self.device_map if _plain(self.device_map) else str(self.device_map)
        shown["extra"] = {key: v if _plain(v) else str(v) for key, v in self.extra.items()}
        return shown


def one_format(
    *, in_4bit: bool, in_8bit: bool = False, in_16bit: bool = False, fp8: Any = False
) -> str:
    """The format that the `load_in_*` switches of one call ask for together.

    Raises:
        UsageError: two switches that exclude each other.
    """
    chosen = {"8bit": in_8bit, "16bit": in_16bit, "fp8": bool(fp8)}
    on = [name for name, wanted in chosen.items() if wanted]
    if len(on) > 1 or (in_4bit and on):
        named = ", ".join(["bnb-4bit"] * in_4bit + on)
        raise UsageError(
            f"Only one of these can be asked for at once: {named}.", next="Leave out all but one."
        )
    if on:
        return on[0]
    return "bnb-4bit" if in_4bit else "16bit"


def from_bnb_config(config: Any) -> tuple[Quantization | None, str | None]:
    """The settings in a `BitsAndBytesConfig` (or its dict), and the format it asks for.

    Raises:
        UsageError: a quantization method that mdl does not load.
    """
    table: dict[str, Any] = dict(config if isinstance(config, Mapping) else config.to_dict())
    if table.get("quant_method", "bitsandbytes") not in ("bitsandbytes", None):
        raise UsageError(
            f"quantization_config of method {table['quant_method']!r} is not for loading here.",
            next="Name a repository that is quantized that way and load it with its exact name.",
        )
    if table.get("load_in_8bit"):
        return None, "8bit"
    if not table.get("load_in_4bit"):
        return None, None
    skip = table.get("llm_int8_skip_modules")
    compute = table.get("bnb_4bit_compute_dtype")
    made = Quantization(
        quant_type=table.get("bnb_4bit_quant_type", "fp4"),
        double_quant=bool(table.get("bnb_4bit_use_double_quant", False)),
        compute_dtype=re.sub(r"^torch\.", "", str(compute)) if compute is not None else None,
        storage=re.sub(r"^torch\.", "", str(table.get("bnb_4bit_quant_storage") or "uint8")),
        skip_modules=tuple(skip) if skip else None,
    )
    return made, "bnb-4bit"


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))
