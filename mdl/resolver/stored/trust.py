"""Whose quantized repositories are taken without being named: the trust list."""

from collections.abc import Mapping, Sequence

# Publishers of quantized repositories who are known for keeping them right, by what they make;
# a format's own list comes before the general one. `[publishers]` in config.toml changes it.
GENERAL = (
    "unsloth", "bartowski", "ggml-org", "lmstudio-community", "RedHatAI", "neuralmagic", "nvidia",
    "mlx-community", "onnx-community", "OpenVINO", "QuantTrio", "cpatonn", "hugging-quants",
    "ModelCloud", "Intel", "amd", "turboderp", "pytorch", "mobiuslabsgmbh", "mradermacher",
    "QuantFactory", "MaziyarPanahi", "TheBloke", "casperhansen", "Xenova", "ISTA-DASLab",
)  # fmt: skip
BY_FORMAT: Mapping[str, Sequence[str]] = {
    "gguf": ("ggml-org", "unsloth", "bartowski", "lmstudio-community", "mradermacher"),
    "awq": ("hugging-quants", "QuantTrio", "cpatonn", "casperhansen", "TheBloke"),
    "gptq": ("hugging-quants", "ModelCloud", "RedHatAI", "Intel", "TheBloke"),
    "w4a16": ("RedHatAI", "neuralmagic", "cpatonn"),
    "w8a8": ("RedHatAI", "neuralmagic"),
    "fp8": ("RedHatAI", "neuralmagic", "nvidia", "unsloth"),
    "nvfp4": ("nvidia", "RedHatAI"),
    "mlx": ("mlx-community", "lmstudio-community"),
    "exl2": ("turboderp", "bartowski", "LoneStriker"),
    "exl3": ("turboderp", "MikeRoz", "ArtusDev"),
    "onnx": ("onnx-community", "Xenova"),
    "openvino": ("OpenVINO",),
    "torchao": ("pytorch",),
    "hqq": ("mobiuslabsgmbh",),
}
# A name's own owner publishes for these too.
_SAME_PUBLISHER = {"meta-llama": ("facebook",), "google": ("google-deepmind",)}


def trust_rank(
    owner: str,
    base_owner: str,
    format: str,
    more: Sequence[str] = (),
    less: Sequence[str] = (),
) -> int | None:
    """The place of a publisher among those to take a format from; `None`: only when named.

    Args:
        owner: whose repository it is.
        base_owner: the publisher of the model it was made from, who comes first.
        format: the format asked for.
        more: publishers that the configuration trusts besides, before the packaged ones.
        less: publishers that it does not trust, whatever the packaged list says.
    """
    owner, base_owner = owner.lower(), base_owner.lower()
    if owner in (name.lower() for name in less):
        return None
    own = (base_owner, *_SAME_PUBLISHER.get(base_owner, ()))
    order = [*own, *more, *BY_FORMAT.get(format, ()), *GENERAL]
    lowered = [name.lower() for name in order]
    return lowered.index(owner) if owner in lowered else None
