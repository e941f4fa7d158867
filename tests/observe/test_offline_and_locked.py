"""`--locked` and `--offline`: only what a lock file names, and without a socket."""

import json
from pathlib import Path

import pytest

from mdl.resolver import LockEntry, write_lock
from tests.cachemgr.builder import etag
from tests.observe.conftest import COMMIT, MODEL, OTHER, Machine, model


def _lock(machine: Machine, files: dict[str, bytes], commit: str = COMMIT) -> str:
    path = machine.folder / "mdl.lock"
    entry = LockEntry(
        requested=MODEL,
        canonical=MODEL,
        repo_id=MODEL,
        commit=commit,
        format="16bit",
        substituted=False,
        quantize_on_load=False,
        source="hub",
        catalogue="",
        gated=False,
        upstream_commit=None,
        files={name: f"sha256:{etag(data)}" for name, data in files.items()},
    )
    write_lock(path, [entry])
    return str(path)


def test_what_is_locked_may_be_opened(machine: Machine) -> None:
    snapshot = machine.add(MODEL)
    options = ("--locked", _lock(machine, model()))
    ran = machine.run("sh", "-c", f"cat {snapshot}/*; exit 2", options=options)
    assert (ran.code, ran.report["verdict"]) == (2, "met")


@pytest.mark.parametrize(
    ("locked", "commit", "reason"),
    [
        (model(b"7"), COMMIT, "is not the one in"),
        ({"config.json": model()["config.json"]}, COMMIT, "does not name its file"),
        (model(), OTHER, "opened at 111111111111, but"),
    ],
)
def test_anything_else_ends_with_6(
    machine: Machine, locked: dict[str, bytes], commit: str, reason: str
) -> None:
    snapshot = machine.add(MODEL)
    options = ("--locked", _lock(machine, locked, commit))
    ran = machine.run("sh", "-c", f"cat {snapshot}/*", options=options)
    assert ran.code == 6
    assert reason in ran.report["unexpected"][0]["reason"]


def test_a_repository_that_no_line_names(machine: Machine) -> None:
    machine.add(MODEL)
    other = machine.add("org/other", model(b"5"))
    options = ("--locked", _lock(machine, model()), "--fail-fast")
    ran = machine.run("sh", "-c", f"cat {other}/model.safetensors; sleep 60", options=options)
    assert (ran.code, ran.report["stopped"]) == (6, True)


def test_a_lock_file_that_is_not_there(machine: Machine) -> None:
    ran = machine.run("touch", "started", options=("--locked", "none.lock"))
    assert ran.code == 3
    assert not (machine.folder / "started").exists()


def test_offline_opens_no_socket(machine: Machine) -> None:
    """The client itself says so: every one of its requests is refused."""
    code = (
        "import huggingface_hub as h\n"
        "try: h.model_info('org/model')\n"
        "except h.errors.OfflineModeIsEnabled: print('offline')"
    )
    ran = machine.python(code, options=("--offline",), HF_HUB_OFFLINE="0")
    assert ran.out == "offline\n", ran.err


def _break(snapshot: Path, how: str) -> None:
    weights = snapshot / "model.safetensors"
    if how == "a link without its blob":
        weights.resolve().unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "other weights":
        blob = weights.resolve().with_name(etag(b"other"))
        blob.write_bytes(b"other")
        weights.unlink()
        weights.symlink_to(blob)
    elif how == "a missing shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "how", ["a link without its blob", "no weights", "other weights", "a missing shard"]
)
def test_offline_is_refused_where_the_locked_model_is_not_whole(machine: Machine, how: str) -> None:
    _break(machine.add(MODEL), how)
    options = ("--offline", "--locked", _lock(machine, model()))
    ran = machine.run("touch", "started", options=options)
    assert ran.code == 5
    assert f"{MODEL} @ 111111111111 cannot be loaded offline." in ran.err
    assert f"mdl pull {MODEL} --locked" in ran.err
    assert not (machine.folder / "started").exists()


def test_offline_starts_where_it_is_whole(machine: Machine) -> None:
    snapshot = machine.add(MODEL)
    options = ("--offline", "--locked", _lock(machine, model()))
    assert machine.run("cat", f"{snapshot}/config.json", options=options).code == 0
