"""What weights that a configuration describes are, by everything that tells of them."""

from typing import NamedTuple

from mdl.formats.claims import Claim, name_claims
from mdl.formats.layout import Layout, main_weights
from mdl.formats.quant_config import SIDE_FILES, find_tables, read_table
from mdl.formats.sizes import Measured, measure
from mdl.formats.tensors import read_tensors
from mdl.formats.types import Description, File, Finding
from mdl.formats.weights import language_config

# One packing, several methods: what tensors called this way may be in a configuration's words.
_SAME_TENSORS = {
    "int-groups": {"awq", "gptq", "auto-round", "bitblas", "metal"},
    "gptq": {"auto-round", "bitblas"},
    "awq": {"auto-round"},
    "w4a16": {"w2a16", "w3a16", "w5a16", "w6a16", "w8a16", "w4a8", "w4a4", "w8a8", "quark"},
    "fp8": {"torchao", "quanto", "mxfp8", "mixed", "w4a8", "quark"},
    "w8a8": {"quanto", "torchao", "eetq", "w8a16", "quark"},
    "nvfp4": {"mixed"},
    "mlx": {"metal"},
    "mxfp4": {"quark"},
}  # fmt: skip
_CLAIMED_BITS = {
    "awq": 4.0, "gptq": 4.0, "bnb-4bit": 4.0, "bnb-8bit": 8.0, "fp8": 8.0, "nvfp4": 4.0,
    "mxfp4": 4.0, "mxfp8": 8.0, "w4a16": 4.0, "w8a8": 8.0, "w8a16": 8.0, "w4a8": 4.0,
    "auto-round": 4.0,
}  # fmt: skip
# A file name that says so is as good as a configuration for these.
_NAMED_BY_FILES = ("gptq", "awq", "bnb-4bit", "fp8", "nvfp4", "mxfp4", "mxfp8", "svdquant")


class Claims(NamedTuple):
    """What the name and the tags claim."""

    name: tuple[Claim, ...]
    tags: tuple[Claim, ...]

    @property
    def all(self) -> tuple[Claim, ...]:
        return self.name + self.tags

    def said(self, claim: Claim) -> str:
        return f"the {'name says' if claim in self.name else 'tags say'} {claim.word}"


class Verdict(NamedTuple):
    """What the weights are, with the evidence and what does not fit together."""

    finding: Finding
    evidence: tuple[str, ...]
    contradictions: tuple[str, ...]
    measured: Measured | None


def judge(description: Description, layout: Layout, claims: Claims) -> Verdict:
    """Weigh tensors, configurations, file names, sizes and claims, in that order."""
    files = main_weights(layout.of("torch", "exl2") or layout.of("pickle"))
    tensors = read_tensors(description)
    measured = measure(description, files)
    finding, problems = stated(description)
    finding = finding or _by_file_names(layout, files)
    if tensors is not None and (finding is None or not _agree(tensors, finding)):
        if finding is not None:
            problems.append(f"{finding.said}, but {tensors.said}")
        finding = _which_packing(tensors, claims)
    elif tensors is None and finding and measured and measured.refutes(finding):
        problems.append(f"{finding.said}, but {measured.said}")
        finding = Finding("16bit", measured.said, "", 16.0)
    finding = finding or _unstated(description, layout, claims, measured)
    evidence = [tensors.said] if tensors is not None else []
    evidence += [finding.said, *([measured.said] if measured is not None else [])]
    if finding.problem:
        problems.append(finding.problem)
    return Verdict(
        finding, tuple(dict.fromkeys(evidence)), tuple(dict.fromkeys(problems)), measured
    )


def stated(description: Description) -> tuple[Finding | None, list[str]]:
    """What the configurations say together, and where they disagree."""
    config = description.config or {}
    found = [
        finding
        for path, table in find_tables(config)
        if (finding := read_table(table, f"config.json: {path}", config)) is not None
    ]
    if not found:  # a pipeline in parts, or a folder for each bitrate
        for path in sorted(description.other_files):
            if path.endswith("/config.json"):
                for key, nested in find_tables(description.json_file(path) or {}):
                    finding = read_table(nested, f"{path}: {key}", config)
                    found += [finding] if finding is not None else []
    # MLX alone writes its table, beside what may be left of the base's.
    found.sort(key=lambda finding: finding.format != "mlx")
    side = [
        (name, finding)
        for name in SIDE_FILES
        if (table := description.json_file(name)) is not None
        and (finding := read_table(table, name, config)) is not None
    ]
    # ModelOpt writes this one with the weights, where config.json can be the base's.
    later = [finding for name, finding in side if name == "hf_quant_config.json"]
    if later and found and not _agree(later[0], found[0]):
        found = later + found
    found += [finding for _, finding in side if finding not in found]
    if not found:
        return None, []
    first, *others = found
    problems = [f"{first.said}; {other.said}" for other in others if not _agree(first, other)]
    return first, problems


def believable(claims: Claims) -> Claim | None:
    """The claim to believe where nothing else is known: the name's, then the tags'."""
    named = [claim for claim in claims.all if claim.format is not None]
    if named:
        return named[0]
    words = {claim.word for claim in claims.tags}
    widths = [claim.word for claim in claims.all if claim.format is None]
    eight = any("8" in word for word in widths)
    if "bitsandbytes" in words:
        format = "bnb-8bit" if eight else "bnb-4bit"
    elif "compressed-tensors" in words and any(word != "compressed-tensors" for word in widths):
        format = "w8a8" if eight else "w4a16"
    elif "quark" in words:
        format = "quark"
    else:
        return None
    return Claim(format, ", ".join(sorted(words)), frozenset({format}))


def claimed_bits(claim: Claim) -> float | None:
    """The bits that a claim's word has in it, else those that its format always has."""
    digits = [c for c in claim.word if c.isdigit()]
    if claim.format in ("awq", "gptq", "auto-round", "hqq") or claim.format is None:
        return float(digits[0]) if digits else _CLAIMED_BITS.get(claim.format or "")
    return _CLAIMED_BITS.get(claim.format)


def _by_file_names(layout: Layout, files: tuple[File, ...]) -> Finding | None:
    if layout.of("exl2") and not layout.of("torch"):
        said = f"{layout.of('exl2')[0].path} is what ExLlamaV2 calls its weights"
        return Finding("exl2", said, method="exl2")
    if layout.of("hqq"):
        return Finding(
            "hqq", f"{layout.of('hqq')[0].path} is what HQQ calls its weights", method="hqq"
        )
    if "quanto_qmap.json" in layout.paths:
        return Finding("quanto", "there is a quanto_qmap.json", method="quanto")
    named = {_named(file) for file in files}
    claim = named.pop() if len(named) == 1 else None
    if claim is None or claim.format not in _NAMED_BY_FILES:
        return None
    said = f"the weights are called {files[0].path}"
    return Finding(claim.format, said, "", claimed_bits(claim), claim.format)


def _named(file: File) -> Claim | None:
    """What a weight file's name claims, its number among the shards aside."""
    claims = name_claims(file.name.rpartition(".")[0])
    return next((claim._replace(word="") for claim in claims if claim.format), None)


def _agree(one: Finding, other: Finding) -> bool:
    """Whether two pieces of evidence can be true of the same weights."""
    return (
        one.format == other.format
        or other.format in one.also
        or one.format in other.also
        or other.format in _SAME_TENSORS.get(one.format, ())
        or one.format in _SAME_TENSORS.get(other.format, ())
    )


def _which_packing(tensors: Finding, claims: Claims) -> Finding:
    """A packing that AWQ and GPTQ share is what the name or a tag says, GPTQ where none does."""
    if tensors.format != "int-groups":
        return tensors
    for claim in claims.all:
        if claim.format in ("awq", "gptq", "auto-round"):
            return tensors._replace(format=claim.format, method=claim.format)
    return tensors._replace(format="gptq", method="gptq")


def _unstated(
    description: Description, layout: Layout, claims: Claims, measured: Measured | None
) -> Finding:
    """Where no configuration speaks: floats, unless a claim and something else say otherwise."""
    known = description.config is not None
    claim = believable(claims)
    if claim is not None and claim.format and layout.of(claim.format):
        claim = None  # it is of other files, beside these
    if claim is not None and claim.format not in (None, "16bit", "gguf", "mlx", "adapter"):
        support = _support(description, layout, measured)
        if support:
            format = claim.format
            said = f"{claims.said(claim)}, and {support}"
            return Finding(format or "", said, "", claimed_bits(claim), format or "")
    elif claim is not None and claim.format == "mlx" and measured and measured.is_quantized:
        return Finding("mlx", f"{claims.said(claim)}, and {measured.said}", method="mlx")
    dtype = _dtype(description)
    if dtype.startswith("float8"):
        return Finding("fp8", f"config.json: dtype is {dtype}", "", 8.0)
    said = "config.json has no quantization" if known else "nothing says that it is quantized"
    bits = 32.0 if dtype == "float32" else 16.0
    if measured is None or measured.bits > (9.0 if known else 11.0):
        return Finding("16bit", said, "", bits)
    problem = f"{said}, but {measured.said}"
    if known or not measured.exact:
        return Finding("16bit", said, "", bits, problem=problem)
    return Finding("other", measured.said, problem="it is quantized, and nothing says how")


def _support(description: Description, layout: Layout, measured: Measured | None) -> str:
    """What stands behind a claim where the configuration is silent, or not known."""
    if measured is not None:
        return measured.said if measured.is_quantized else ""
    unread = [
        name for name in SIDE_FILES
        if name in layout.paths and description.json_file(name) is None
    ]  # fmt: skip
    if unread:
        return f"there is a {unread[0]}"
    return "" if description.config is not None else "config.json is not known"


def _dtype(description: Description) -> str:
    config = description.config or {}
    for table in (config, language_config(config)):
        named = table.get("torch_dtype") or table.get("dtype")
        if isinstance(named, str):
            return named.removeprefix("torch.")
    return ""
