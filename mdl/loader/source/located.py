"""What a request leads to: a model, where its files are, and the adapter that goes on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.cachemgr.verify import hash_file
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.request import LoadRequest
from mdl.loader.source.download import Download, HubAccess
from mdl.model_files import ADAPTER_WEIGHTS, PICKLED_ADAPTER
from mdl.resolver import Resolution
from mdl.settings import Settings


@dataclass(frozen=True)
class LocatedModel:
    """A resolved request and where the files are.

    One of these is set: `checkpoint` if they are all on this machine, `adapter_folder` if they are
    and belong to an adapter, else `download`. `is_local_copy`: the checkpoint was quantized and
    saved by an earlier load. `adapter` goes on the model when the caller named an adapter;
    `request` is then the one for its base model.
    """

    request: LoadRequest
    resolution: Resolution
    hub: HubAccess
    repo_id: str
    commit: str | None
    checkpoint: Checkpoint | None = None
    download: Download | None = None
    adapter_folder: Path | None = None
    is_local_copy: bool = False
    adapter: "Adapter | None" = None

    @property
    def settings(self) -> Settings:
        return self.hub.settings

    @property
    def original_request(self) -> LoadRequest:
        """The caller's request: the adapter's, if there is one."""
        return self.request if self.adapter is None else self.adapter.request

    @property
    def is_adapter(self) -> bool:
        remote = self.download is not None and self.download.needed.adapter
        return remote or self.adapter_folder is not None

    @property
    def config(self) -> Mapping[str, Any]:
        """What is in the model's config.json."""
        if self.checkpoint is not None:
            return self.checkpoint.config
        return {} if self.download is None else self.download.config

    @property
    def files(self) -> frozenset[str]:
        """The model's files, as paths in its repository."""
        if self.download is not None:
            return frozenset(file.path for file in self.download.files)
        if self.checkpoint is not None:
            return frozenset(self.checkpoint.files.all)
        return frozenset()

    @property
    def bytes_to_download(self) -> int:
        return self.download.bytes if self.download is not None else 0


@dataclass(frozen=True)
class Adapter:
    """A saved PEFT adapter.

    `base` and `revision` are those of the model it was trained on. `origin` is its repository on
    the Hub, None for a folder. `folder` is None if it was not downloaded.
    """

    request: LoadRequest
    folder: Path | None
    base: str
    revision: str | None
    origin: LocatedModel | None = None

    def to_json(self) -> dict[str, Any]:
        """For a plan: where the adapter is, and how many bytes are to be downloaded."""
        table: dict[str, Any] = {"folder": None if self.folder is None else str(self.folder)}
        if self.origin is not None:
            table |= {"repo_id": self.origin.repo_id, "commit": self.origin.commit,
                      "download_bytes": self.origin.bytes_to_download}  # fmt: skip
        return table

    def with_hash(self) -> dict[str, Any]:
        """For a report: with the SHA-256 of its weights, which are read to compute it."""
        assert self.folder is not None
        names = (ADAPTER_WEIGHTS, PICKLED_ADAPTER)
        weights = next(path for name in names if (path := self.folder / name).exists())
        digest = hash_file(str(weights.resolve()), "sha256")
        return {**self.to_json(), "weights": weights.name, "sha256": digest}


@dataclass(frozen=True)
class FetchedModel:
    """A located model whose files are all on this machine."""

    located: LocatedModel
    checkpoint: Checkpoint
