"""The front door, `import mdl`: each call on the loopback Hub, with the types that mypy sees."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import pytest

import mdl
from mdl.cachemgr import Placement
from mdl.loader import Loaded, Pulled, Verification
from mdl.loader.planning import LoadPlan
from mdl.resolver import Access, LockEntry
from tests.hub import LoopbackHub

NAME = "Org/Name"
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)
CONFIG = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'


@pytest.fixture(autouse=True)
def served(hub: LoopbackHub, hub_env: dict[str, str]) -> Iterator[LoopbackHub]:
    hub.add_repo(NAME, files={"config.json": CONFIG, "model.safetensors": WEIGHTS})
    yield hub


def test_resolve_where_and_pull_lead_to_the_same_snapshot(served: LoopbackHub) -> None:
    resolution = assert_type(mdl.resolve(NAME.lower()), mdl.Resolution)
    assert (resolution.repo_id, resolution.format) == (NAME, "16bit")
    assert assert_type(mdl.where(NAME), Placement).state == "absent"
    planned = assert_type(mdl.pull(NAME, dry_run=True), Pulled)
    assert (planned.path, planned.files) == (None, ("config.json", "model.safetensors"))
    pulled = mdl.pull(NAME)
    assert pulled.path is not None
    assert pulled.files == pulled.downloaded == planned.downloaded
    assert all((pulled.path / file).exists() for file in pulled.files)
    assert pulled.commit == resolution.commit
    assert pulled.report["bytes"] == pulled.bytes > 0
    placement = mdl.where(NAME.upper())
    assert (placement.state, placement.path) == ("complete", pulled.path)
    again = mdl.pull(NAME, offline=True)
    assert (again.path, again.downloaded) == (pulled.path, ())


def test_lock_and_verify_hold_a_pull_to_its_files(served: LoopbackHub, tmp_path: Path) -> None:
    file = tmp_path / "mdl.lock"
    entries = assert_type(mdl.lock(NAME, file), tuple[LockEntry, ...])
    assert [entry.requested for entry in entries] == [NAME]
    assert mdl.lock([NAME], file, format="bnb-4bit", add=True, dry_run=True)[1].quantize_on_load
    pulled = mdl.pull(NAME, locked=str(file))
    assert pulled.path is not None
    verified = assert_type(mdl.verify(file), Verification)
    assert (len(verified.checked), verified.problems) == (2, ())
    weights = (pulled.path / "model.safetensors").resolve()
    weights.chmod(0o644)
    weights.write_bytes(WEIGHTS[:-1] + b"\1")
    assert len(mdl.verify(str(pulled.path)).problems) == 1
    assert mdl.pull(NAME, repair=True).repaired == ("model.safetensors",)
    assert mdl.verify(pulled.path).problems == ()


def test_access_says_who_may_read(served: LoopbackHub) -> None:
    served.add_repo("Org/Gated", files={"config.json": CONFIG}, gated="manual")
    access = assert_type(mdl.access("org/gated", token=False), Access)
    assert (access.repo_id, access.gated, access.access) == ("Org/Gated", "manual", "no_token")
    assert access.denied and not mdl.access(NAME).denied


def test_the_cache_opens_without_arguments(served: LoopbackHub) -> None:
    mdl.pull(NAME)
    assert [repo.repo_id for repo in assert_type(mdl.Cache(), mdl.Cache).list()] == [NAME]


def test_a_refusal_is_an_error_with_its_exit_code() -> None:
    for call in (mdl.resolve, mdl.access, mdl.lock, mdl.pull):
        with pytest.raises(mdl.MdlError) as refused:
            call("org/none")
        assert (refused.value.exit_code, refused.value.next != "") == (3, True)
    with pytest.raises(mdl.MdlError, match="not a model name"):
        mdl.where("../etc")
    with pytest.raises(mdl.MdlError, match="Unknown format"):
        mdl.pull(NAME, format="nonsense")


def test_load_and_plan_are_typed() -> None:
    assert inspect.signature(mdl.load).return_annotation is Loaded
    assert inspect.signature(mdl.plan).return_annotation == "LoadPlan"

    def calls() -> None:  # for mypy alone: building a model is another test's matter
        assert_type(mdl.load(NAME, load_in_4bit=True), Loaded)
        assert_type(mdl.plan(NAME, device_map="cpu"), LoadPlan)


@pytest.mark.parametrize("name", mdl.__all__)
def test_each_name_says_what_it_does(name: str) -> None:
    value = getattr(mdl, name)
    documented = inspect.getdoc(value)
    assert documented
    if inspect.isfunction(value) and inspect.signature(value).parameters:
        assert "Args:" in documented and "Raises:" in documented
