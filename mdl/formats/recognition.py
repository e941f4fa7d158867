"""One pure function: from what is known of a repository's files to the format of its weights.

Evidence, the strongest first: tensors' names and types, `config.json` and the files that stand in
for it, the files' own names, their size beside the number of weights. Tags and names are claims:
they decide only where nothing else can, and are checked against what does.
"""

from collections.abc import Iterable
from itertools import chain

from mdl.formats.bitrates import branch_variants, openvino_variants, stated_variants
from mdl.formats.claims import Claim, name_claims, tag_claims
from mdl.formats.experts import find_apart
from mdl.formats.gguf_files import GgufFiles, sort_files
from mdl.formats.layout import Layout, onnx_variants, sort_layout
from mdl.formats.runtimes import runtimes_of
from mdl.formats.tensors import index_of, is_mlx_copy
from mdl.formats.types import Description, Format, Variant
from mdl.formats.verdict import Claims, Verdict, believable, judge, stated
from mdl.model_files import ADAPTER

# Weight files besides transformers' own: the kind of file is the format.
_OTHER_KINDS = (
    "onnx", "openvino", "mlc", "ctranslate2", "ggml", "llamafile", "tflite", "executorch", "coreml",
    "tensorrt", "rknn", "nemo",
)  # fmt: skip
_TORCH_KINDS = ("torch", "exl2", "hqq", "pickle", "npz", "original")


def recognize(description: Description) -> Format:
    """The format of a repository's weights, with the evidence and what contradicts it.

    It depends on what is known, never on the order of files, tags or keys; nothing is read.
    """
    layout = sort_layout(description.files)
    gguf = sort_files(layout.of("gguf"), description.gguf)
    claims = Claims(tuple(name_claims(description.name)), tuple(tag_claims(description.tags)))
    held = _holds(layout, gguf)
    main = _main_kind(held, claims, layout)
    formats = {kind: _of(kind, description, layout, gguf, claims) for kind in held}
    found = formats.pop(main) if main in formats else _without_weights(description, layout, claims)
    names = dict.fromkeys((*found.also, *(str(other.format) for other in formats.values())))
    names.pop(str(found.format), None)
    found = found._replace(also=tuple(names), others=tuple(formats.values()))
    return found._replace(contradictions=(*found.contradictions, *_untrue(found, claims)))


def _of(
    kind: str, description: Description, layout: Layout, gguf: GgufFiles, claims: Claims
) -> Format:
    """The format of one kind of a repository's files, with what loads it."""
    if kind == "torch":
        found = _of_torch(description, judge(description, layout, claims), layout)
        names = chain(index_of(description), *description.headers.values())
        apart = find_apart(description.config or {}, names)
        if apart is not None:
            said = f"the experts are packed one by one: {apart.tensor}"
            found = found._replace(runtimes=apart.runtimes, evidence=(*found.evidence, said))
    elif kind == "gguf":
        found = _of_gguf(gguf)
    elif kind == "adapter":
        found = _of_adapter(gguf, layout)
    else:
        found = _of_kind(kind, description, layout)
    return found._replace(runtimes=found.runtimes or runtimes_of(found.format, found.method))


def _holds(layout: Layout, gguf: GgufFiles) -> list[str]:
    """The kinds of weights that are there: `torch`, `gguf`, `adapter`, or a format's own files."""
    kinds = [] if not layout.of(*_TORCH_KINDS) else ["torch"]
    kinds += ["gguf"] if gguf.models else []
    kinds += [kind for kind in _OTHER_KINDS if layout.of(kind)]
    if layout.of("adapter") or ADAPTER in layout.paths or (gguf.adapters and not gguf.models):
        kinds.append("adapter")
    if layout.of("flax", "tensorflow") and not kinds:
        kinds.append("torch")
    return kinds


def _main_kind(held: list[str], claims: Claims, layout: Layout) -> str | None:
    """Of several the one that the name claims; else transformers' own, then GGUF, then the rest."""
    for claim in claims.name:
        if claim.format is not None and claim.format in held:
            return claim.format
    loose = "torch" in held and not layout.of("torch", "exl2", "hqq")
    if loose and "adapter" in held and ADAPTER in layout.paths:
        return "adapter"  # a pickle beside an adapter is a trainer's state, not a model
    if loose and len(held) > 1 and not _is_model_pickle(layout):
        return held[1]
    return held[0] if held else None


def _is_model_pickle(layout: Layout) -> bool:
    return any(file.name.startswith(("pytorch_model", "model", "consolidated"))
               for file in layout.of("pickle", "npz", "original"))  # fmt: skip


def _of_torch(description: Description, verdict: Verdict, layout: Layout) -> Format:
    finding = verdict.finding
    variants = stated_variants(description, finding)
    evidence, also = verdict.evidence, finding.also
    if finding.format == "16bit" and _is_mlx(description):
        also = (*also, "mlx")
        evidence = (*evidence, "library mlx: a float copy made for MLX")
    absent = sorted({str(shard) for shard in index_of(description).values()} - layout.paths)
    problems = [f"the index names {absent[0]}, which is not there"] if absent else []
    return Format(
        format=finding.format,
        variants=variants,
        bits_per_weight=finding.bits or (variants[0].bits if variants else None),
        evidence=evidence,
        contradictions=(*verdict.contradictions, *problems),
        also=also,
        method=finding.method,
        stored_bits_per_weight=verdict.measured and round(verdict.measured.bits, 2),
    )


def _is_mlx(description: Description) -> bool:
    return is_mlx_copy(description) or "mlx" in {tag.lower() for tag in description.tags}


def _of_gguf(gguf: GgufFiles) -> Format:
    variants = gguf.variants or tuple(
        variant._replace(name=variant.files[0].path.removesuffix(".gguf"))
        for variant in gguf.untyped
    )
    count = len(gguf.models)
    evidence = [f"{count} GGUF model{'s' if count > 1 else ''}: {variants[0].files[0].path}"]
    if len(variants) > 1:
        evidence.append(f"{variants[0].name} is what a runtime takes by default")
    return Format(
        format="gguf",
        variants=variants,
        bits_per_weight=variants[0].bits,
        evidence=tuple(evidence),
        contradictions=gguf.problems,
        method="gguf",
        projectors=gguf.projectors,
    )


def _of_adapter(gguf: GgufFiles, layout: Layout) -> Format:
    if gguf.adapters and not layout.of("adapter"):
        said = f"{gguf.adapters[0].path} is an adapter as GGUF"
        return Format("adapter", evidence=(said,), also=("gguf",), runtimes=("llama.cpp", "ollama"))
    said = ADAPTER if ADAPTER in layout.paths else layout.of("adapter")[0].path
    return Format("adapter", evidence=(f"{said}, and no weights of a model",))


def _of_kind(kind: str, description: Description, layout: Layout) -> Format:
    files = layout.of(kind)
    evidence = (f"{len(files)} {kind} file{'s' if len(files) > 1 else ''}: {files[0].path}",)
    variants: tuple[Variant, ...] = ()
    if kind == "onnx":
        variants = onnx_variants(files)
    elif kind == "openvino":
        variants = openvino_variants(description, files)
    return Format(kind, variants, variants[0].bits if variants else None, evidence, method=kind)


def _without_weights(description: Description, layout: Layout, claims: Claims) -> Format:
    """`main` of some repositories holds a card alone: one branch for each bitrate."""
    claim = believable(claims)
    finding, _ = stated(description)
    branches = branch_variants(description)
    calibrated = [p for p in sorted(layout.paths) if p.rpartition("/")[2] == "measurement.json"]
    if calibrated and (claim is None or claim.format not in ("exl2", "exl3")):
        claim = Claim("exl2", calibrated[0], frozenset({"exl2"}))
    if finding is None and (claim is None or claim.format is None):
        return Format(None, evidence=("there are no weights",))
    evidence = ["there are no weights in this branch"]
    evidence += [f"{len(branches)} branches of bitrates"] if branches else []
    evidence += [finding.said] if finding else []
    if claim is not None and claim.format is not None:
        evidence.append(calibrated[0] if claim.word in calibrated else claims.said(claim))
    doubt = () if finding or branches or calibrated else ("nothing but a claim says so",)
    first = branches[0].bits if branches else None
    format = finding.format if finding else claim.format if claim else None
    bits = finding.bits if finding else first
    loads = runtimes_of(format, finding.method if finding else "")
    return Format(format, branches, bits, tuple(evidence), doubt, runtimes=loads)


def _untrue(found: Format, claims: Claims) -> Iterable[str]:
    """Claims of the name and the tags that are not true of what was found.

    A width in a name that says the format rightly is that of something else: of activations, of
    what it was made from.
    """
    true = {found.format, *found.also}
    if found.format is None:
        return
    right = any(c.format not in (None, "16bit") and c.fits & true for c in claims.name)
    for claim in claims.name:
        if true.isdisjoint(claim.fits) and not (right and claim.format in (None, "16bit")):
            yield f"the name says {claim.word}, the weights are {found.format}"
    for claim in claims.tags:
        if true.isdisjoint(claim.fits):
            yield f"a tag says {claim.word}, the weights are {found.format}"
