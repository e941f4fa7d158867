"""Odd but real repositories: mdl makes of them what transformers, PEFT and the Hub's client do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

import mdl
from mdl.errors import MdlError
from tests.corpus import adapters, configs, files, quantized, weights  # noqa: F401 # fill the table
from tests.corpus.outcome import Outcome, judge, ours, theirs, weights_in
from tests.corpus.shape import SHAPES, Shape
from tests.hub import LoopbackHub

NOT_MODELS = {".gitattributes", "README.md"}


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """One Hub, one cache and one catalogue for the whole corpus."""
    place = tmp_path_factory.mktemp("machine")
    with LoopbackHub() as hub, pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "MDL_SERVER"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", str(place / "hf"))
        patch.setenv("MDL_HOME", str(place / "mdl"))
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        # Older clients follow a redirect to their own host, whatever its port.
        hub.cdn = hub.cdn.replace("127.0.0.1", "localhost")
        yield hub
    assert hub.errors == []


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_repository(
    shape: Shape, loopback: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / shape.name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)  # where adapters find their base
    shape.build(folder)
    reference = theirs(shape, folder)
    found = judge(shape, reference, ours(shape, folder, folder))
    found += [
        f"as a repository: {text}" for text in of_repository(shape, reference, loopback, folder)
    ]
    assert not found, "\n".join(found)


def of_repository(shape: Shape, reference: Outcome, hub: LoopbackHub, folder: Path) -> list[str]:
    """What is wrong with the folder as a repository: resolved, pulled, checked, loaded offline."""
    name = f"corpus/{shape.name}"
    hub.add_repo(name, folder=folder)
    pickles = shape.options.get("allow_pickle", False)
    try:
        resolved = mdl.resolve(name, exact=True)
        pulled = mdl.pull(name, exact=True, allow_pickle=pickles)
    except MdlError as error:
        if reference.refused or shape.mdl == "refuses":
            return []
        return [f"not pulled: {error.message} {error.why}"]
    assert pulled.path is not None
    found = []
    if shape.format is not None and resolved.weights != shape.format:
        found.append(f"resolved as {resolved.weights}, it is {shape.format}")
    if reference.refused or shape.mdl == "refuses":
        return found
    path = Path(pulled.adapter["folder"]) if pulled.adapter else pulled.path
    return found + of_snapshot(shape, reference, hub, path)


def of_snapshot(shape: Shape, reference: Outcome, hub: LoopbackHub, path: Path) -> list[str]:
    here = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    missing = (reference.opened | set(shape.needs)) - here - NOT_MODELS
    found = [f"not pulled: {sorted(missing)}"] if missing else []
    surplus = weights_in(here) - weights_in(reference.opened) - set(shape.needs)
    found += [f"pulled for nothing: {sorted(surplus)}"] if surplus else []
    if not mdl.where(f"corpus/{shape.name}").complete:
        found.append("it is not complete")
    found += mdl.verify(path).problems
    hub.clear_requests()
    again = ours(
        shape, f"corpus/{shape.name}", path, use_exact_model_name=True, local_files_only=True
    )
    again.opened |= weights_in(reference.opened)  # links: opened in the folder of the blobs
    found += judge(shape, reference, again)
    found += [f"{len(hub.requests)} requests offline"] if hub.requests else []
    return found
