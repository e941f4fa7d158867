"""Formats that are taken as they are stored: whose repository, which variant, which files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl.errors import MdlError, NameRefusedError, NoAccessError, OfflineError, UsageError
from mdl.resolver import Cached, Resolution, ResolveOptions, Resolver, parse_name
from mdl.store import MirrorRow
from tests.hub import LoopbackHub
from tests.resolver.conftest import OneCached

BASE = "Maker/Model-8B"
AWQ = '{"quantization_config": {"quant_method": "awq", "bits": 4}}'
W4A16 = """{"quantization_config": {"quant_method": "compressed-tensors",
    "format": "pack-quantized", "config_groups":
    {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}}"""
QUANTIZED = {"base_model": BASE, "base_model_relation": "quantized"}
GGUF = {
    f"Model-8B-{name}.gguf": b"GGUF" + bytes(size)
    for name, size in (("Q4_K_M", 40), ("Q8_0", 80), ("UD-Q2_K_XL", 20))
}
Online = Callable[..., Resolver]


@pytest.fixture(autouse=True)
def published(hub: LoopbackHub) -> None:
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w"})
    hub.add_repo("bartowski/Model-8B-GGUF", files=dict(GGUF), card=QUANTIZED, downloads=50)
    hub.add_repo("Nobody/Model-8B-GGUF", files=dict(GGUF), card=QUANTIZED, downloads=900)
    hub.add_repo(
        "Nobody/Model-8B-AWQ", files={"config.json": AWQ, "model.safetensors": b"w"}, card=QUANTIZED
    )
    hub.add_repo(
        "RedHatAI/Model-8B-quantized.w4a16", card=QUANTIZED,
        files={"config.json": W4A16, "model.safetensors": b"w"},
    )  # fmt: skip


def ask(resolver: Resolver, name: str, format: str = "16bit", **options: Any) -> Resolution:
    return resolver.resolve(name, ResolveOptions(format, **options))


def paths(resolution: Resolution) -> list[str]:
    return [file.path for file in resolution.files or ()]


def reasons(resolution: Resolution) -> str:
    return "\n".join(f"{step.candidate}: {step.reason}" for step in resolution.trace)


# -- asking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["gguf:Q8_0", "GGUF:q8_0", "gguf:q8_0"])
def test_a_variant_is_asked_for_in_any_casing(online: Online, written: str) -> None:
    found = ask(online(), "bartowski/Model-8B-GGUF", written)
    assert (found.format, found.variant, found.substituted) == ("gguf", "Q8_0", False)
    assert paths(found) == ["Model-8B-Q8_0.gguf"]
    assert found.files is not None
    assert found.files[0].size == 84


@pytest.mark.parametrize(
    "written",
    [
        "bartowski/Model-8B-GGUF:Q8_0", "bartowski/Model-8B-GGUF:q8_0",
        "hf.co/bartowski/Model-8B-GGUF:Q8_0", "hf.co/BARTOWSKI/model-8b-gguf:q8_0",
        "https://huggingface.co/bartowski/Model-8B-GGUF:Q8_0", "hf://bartowski/Model-8B-GGUF:Q8_0",
    ],
)  # fmt: skip
def test_the_variant_stands_behind_the_name_as_people_write_it(
    online: Online, written: str
) -> None:
    found = ask(online(), written)
    assert (found.repo_id, found.variant) == ("bartowski/Model-8B-GGUF", "Q8_0")
    assert found.checked().canonical == "bartowski/Model-8B-GGUF"


def test_a_variant_behind_the_name_of_the_base_finds_its_mirror(online: Online) -> None:
    found = ask(online(), f"{BASE}:Q8_0")
    assert (found.repo_id, found.variant, found.substituted) == (
        "bartowski/Model-8B-GGUF", "Q8_0", True,
    )  # fmt: skip


def test_latest_is_the_default(online: Online) -> None:
    name = parse_name("hf.co/a/b:latest", allow_variant=True)
    assert (name.text, name.variant) == ("a/b", None)


@pytest.mark.parametrize("name", ["a/b:", "a/b:Q4 K", "llama3:8b", ":Q4_K_M", "a/b/c:Q4_K_M"])
def test_what_is_no_variant_is_refused_as_before(name: str) -> None:
    with pytest.raises(NameRefusedError):
        parse_name(name, allow_variant=True)


def test_names_with_variants_are_refused_where_none_is_meant() -> None:
    with pytest.raises(NameRefusedError):
        parse_name("a/b:Q4_K_M")


@pytest.mark.parametrize(
    "format",
    ["ggml", "gguf:", "gguf:a b", "gguf:Q4_0:x", "16bit:Q4", "bnb-4bit:nf4", "", 4, ["gguf"]],
)
def test_what_is_no_format_is_refused(format: Any) -> None:
    with pytest.raises(UsageError) as caught:
        ResolveOptions(format)
    assert format != "gguf:Q4_0:x" or "'Q4_0:x' cannot be" in caught.value.message


def test_the_default_variant_is_said_to_be_one(online: Online) -> None:
    found = ask(online(), "bartowski/Model-8B-GGUF", "gguf")
    assert found.variant == "Q4_K_M"
    assert "Q4_K_M is the default; 2 more variants" in reasons(found)


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(online: Online) -> None:
    with pytest.raises(MdlError, match="Q5_K_M") as caught:
        ask(online(), "bartowski/Model-8B-GGUF", "gguf:Q5_K_M", exact=True).checked()
    assert caught.value.exit_code == 3
    assert caught.value.details["variants"] == ["Q4_K_M", "Q8_0", "UD-Q2_K_XL"]


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("bartowski/Model-8B-GGUF:Q5_K_M", {}, "bartowski/Model-8B-GGUF has Q4_K_M, "),
        ("bartowski/Model-8B-GGUF", {"format": "gguf", "fit": "1kB"}, "nothing of it fits"),
        ("bartowski/Model-8B-GGUF", {"format": "gguf", "mmproj": "F16"}, ""),
        ("bartowski/Model-8B-GGUF", {"format": "awq"}, "itself is gguf"),
        (f"{BASE}:Q9_9", {}, f"{BASE} has 16bit weights, without variants"),
    ],
)
def test_a_name_that_is_right_gets_no_other_names(
    online: Online, hub: LoopbackHub, name: str, options: dict[str, Any], why: str
) -> None:
    resolver = online()
    for near in ("bartowski/Model-7B-GGUF", "Maker/Model-7B"):
        resolver.catalog.add([MirrorRow(near, "fp8", "a/b", "fp8", "", 0, "declared", "user")])
    error = ask(resolver, name, **options).error
    assert error is not None and error.exit_code == 3
    assert "suggestions" not in error.details and "Did you mean" not in error.next
    assert why in error.why
    assert "16bit:" not in error.message


@pytest.mark.parametrize("format", ["gguf:Q4_K_M", "bnb-4bit", "8bit"])
def test_a_variant_behind_the_name_and_another_format_are_refused(
    online: Online, format: str
) -> None:
    with pytest.raises(UsageError, match="one format at a time") as caught:
        ask(online(), "bartowski/Model-8B-GGUF:Q8_0", format)
    assert caught.value.why == f"given: bartowski/Model-8B-GGUF:Q8_0 and {format}"


@pytest.mark.parametrize("format", ["16bit", None, "gguf", "gguf:q8_0"])
def test_a_variant_behind_the_name_and_a_format_may_agree(online: Online, format: Any) -> None:
    assert ask(online(), "bartowski/Model-8B-GGUF:Q8_0", format).checked().label == "gguf:Q8_0"


def test_a_split_model_and_its_projector_are_taken_together(
    online: Online, hub: LoopbackHub
) -> None:
    parts = [f"Q4_K_M/V-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2)]
    hub.add_repo(
        "Maker/Vision-GGUF",
        files={
            **dict.fromkeys(parts, b"a"),
            "mmproj-F16.gguf": b"p",
            "mmproj-BF16.gguf": b"q",
            "V.imatrix.gguf": b"i",
            "mtp-V-Q8_0.gguf": b"m",
        },
    )
    resolver = online()
    assert paths(ask(resolver, "Maker/Vision-GGUF", "gguf")) == [*parts, "mmproj-F16.gguf"]
    found = ask(resolver, "Maker/Vision-GGUF", "gguf", mmproj="bf16")
    assert paths(found) == [*parts, "mmproj-BF16.gguf"]
    assert paths(ask(resolver, "Maker/Vision-GGUF", "gguf", mmproj="none")) == parts
    with pytest.raises(MdlError, match="no mmproj in Q8_0"):
        ask(resolver, "Maker/Vision-GGUF", "gguf", mmproj="Q8_0").checked()


def test_a_branch_of_an_exl2_repository_is_a_variant(online: Online, hub: LoopbackHub) -> None:
    hub.add_repo("turboderp/Model-exl2", files={"README.md": "-", "measurement.json": "{}"})
    hub.commit("turboderp/Model-exl2", {"output.safetensors": b"w"}, ref="4.25bpw")
    hub.commit("turboderp/Model-exl2", {"output.safetensors": b"w"}, ref="6_0")
    for written in ("exl2:4.25", "exl2:4.25bpw", "exl2:4_25"):
        found = ask(online(), "turboderp/Model-exl2", written)
        assert (found.variant, found.revision, found.files) == ("4.25", "4.25bpw", None)
    assert ask(online(), "turboderp/Model-exl2:6.0").revision == "6_0"


# -- finding ---------------------------------------------------------------------------------


def test_an_unknown_name_is_found_in_three_requests_and_remembered(
    online: Online, hub: LoopbackHub
) -> None:
    found = ask(online(), BASE, "gguf").checked()
    assert len(hub.requests) == 3
    assert (found.repo_id, found.variant) == ("bartowski/Model-8B-GGUF", "Q4_K_M")
    assert (found.source, found.rule, found.publisher) == ("hub-tree", "mirror", "bartowski")
    assert "model tree" in reasons(found)
    assert found.commit is not None
    hub.clear_requests()
    again = ask(online(), BASE, "gguf:q8_0").checked()  # another process, the next minute
    assert (again.repo_id, len(hub.requests)) == ("bartowski/Model-8B-GGUF", 2)
    hub.clear_requests()
    offline = ask(online(offline=True), BASE, "gguf").checked()
    assert (offline.repo_id, paths(offline)) == (found.repo_id, paths(found))
    assert hub.requests == []
    assert offline.knowledge_age is not None


@pytest.mark.straight
def test_a_configuration_is_read_where_the_tree_does_not_decide(
    online: Online, hub: LoopbackHub
) -> None:
    found = ask(online(), BASE, "w4a16").checked()
    assert found.repo_id == "RedHatAI/Model-8B-quantized.w4a16"
    assert len([r for r in hub.requests if "resolve-cache" not in r.path]) == 3
    assert "vllm" in found.runtimes


def test_publishers_who_are_not_trusted_are_listed_and_taken_only_when_named(
    online: Online,
) -> None:
    resolver = online()
    with pytest.raises(MdlError, match="trusted publisher") as caught:
        ask(resolver, BASE, "awq").checked()
    assert caught.value.details["untrusted"] == ["Nobody/Model-8B-AWQ"]
    assert ask(resolver, BASE, "awq", any_publisher=True).checked().publisher == "Nobody"
    assert ask(resolver, "Nobody/Model-8B-AWQ", "awq").checked().substituted is False


def test_the_configuration_changes_whom_to_trust(online: Online) -> None:
    assert ask(online(trusted=("Nobody",)), BASE, "awq").checked().publisher == "Nobody"
    found = ask(online(trusted=("nobody",), distrusted=("Bartowski",)), BASE, "gguf").checked()
    assert found.publisher == "Nobody"


def test_the_publishers_own_repository_comes_first(online: Online, hub: LoopbackHub) -> None:
    hub.add_repo("Maker/Model-8B-GGUF", files=dict(GGUF), card=QUANTIZED, downloads=1)
    found = ask(online(), BASE, "gguf").checked()
    assert found.repo_id == "Maker/Model-8B-GGUF"
    assert found.alternatives == ("bartowski/Model-8B-GGUF",)


def test_a_mirror_without_the_variant_is_passed_over(online: Online, hub: LoopbackHub) -> None:
    hub.add_repo(
        "Maker/Model-8B-GGUF", files={"Model-8B-F16.gguf": b"GGUF"}, card=QUANTIZED, downloads=1
    )
    found = ask(online(), BASE, "gguf:Q8_0").checked()
    assert found.repo_id == "bartowski/Model-8B-GGUF"
    assert "Maker/Model-8B-GGUF: it has no Q8_0: F16" in reasons(found)


def test_your_own_row_beats_everything(online: Online) -> None:
    resolver = online()
    row = MirrorRow(BASE, "gguf", "Nobody/Model-8B-GGUF", "gguf", "", 0, "declared", "user")
    resolver.catalog.add([row])
    assert ask(resolver, BASE, "gguf").checked().repo_id == "Nobody/Model-8B-GGUF"


def test_exact_is_that_repository_and_no_other(online: Online, hub: LoopbackHub) -> None:
    with pytest.raises(MdlError, match="not available as gguf"):
        ask(online(), BASE, "gguf", exact=True).checked()
    assert len(hub.requests) == 1


def test_a_revision_is_that_of_the_named_repository(online: Online) -> None:
    with pytest.raises(UsageError, match="would be lost"):
        ask(online(), BASE, "gguf", revision="main").checked()
    found = ask(online(), "bartowski/Model-8B-GGUF", "gguf", revision="main").checked()
    assert found.revision == "main"


def test_a_renamed_repository_is_followed(online: Online, hub: LoopbackHub) -> None:
    hub.rename("bartowski/Model-8B-GGUF", "bartowski/Maker_Model-8B-GGUF")
    found = ask(online(), "bartowski/Model-8B-GGUF", "gguf").checked()
    assert (found.requested, found.repo_id) == (
        "bartowski/Model-8B-GGUF", "bartowski/Maker_Model-8B-GGUF",
    )  # fmt: skip


def test_a_gated_mirror_is_passed_over_with_its_reason(online: Online, hub: LoopbackHub) -> None:
    hub.add_repo(
        "Maker/Model-8B-GGUF", files=dict(GGUF), card=QUANTIZED, gated="manual", downloads=1
    )
    found = ask(online(), BASE, "gguf").checked()
    assert found.repo_id == "bartowski/Model-8B-GGUF"
    assert "no token was given" in reasons(found)
    with pytest.raises(NoAccessError):
        ask(online(), "Maker/Model-8B-GGUF", "gguf", exact=True).checked()


def test_an_unknown_name_is_refused_offline(online: Online, hub: LoopbackHub) -> None:
    with pytest.raises(OfflineError):
        ask(online(offline=True), BASE, "gguf").checked()
    assert hub.requests == []


def test_a_missing_name_is_refused(online: Online) -> None:
    with pytest.raises(MdlError) as caught:
        ask(online(), "Maker/Nothing", "gguf").checked()
    assert caught.value.exit_code == 3


def test_what_is_in_the_cache_is_known_offline(online: Online, tmp_path: Path) -> None:
    (tmp_path / "snap").mkdir()
    (tmp_path / "snap" / "M-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(40))

    cached = OneCached(
        "Org/M-GGUF", Cached(True, str(tmp_path / "snap"), 44, "c" * 40, "Org/M-GGUF")
    )
    found = ask(online(offline=True, cached=cached), "org/m-gguf:Q4_K_M").checked()
    assert (found.repo_id, paths(found)) == ("Org/M-GGUF", ["M-Q4_K_M.gguf"])
    assert found.cached is not None
    assert found.cached.complete


def test_a_resolution_resolves_to_itself(online: Online) -> None:
    resolver = online()
    for format in ("gguf", "gguf:Q8_0", "gguf:ud-q2_k_xl"):
        found = ask(resolver, BASE, format).checked()
        again = ask(resolver, f"{found.repo_id}:{found.variant}").checked()
        assert (again.repo_id, again.variant, again.files, again.substituted) == (
            found.repo_id, found.variant, found.files, False,
        )  # fmt: skip


def test_a_resolution_survives_json(online: Online) -> None:
    found = ask(online(), BASE, "gguf").checked()
    body = found.to_json()
    assert body["files"] == [{"path": "Model-8B-Q4_K_M.gguf", "size": 44}]
    back = Resolution.from_json(body)
    assert back.to_json() == body
