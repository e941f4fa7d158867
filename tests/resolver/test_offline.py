"""Without a network: the database and the cache answer, and no socket is opened."""

import socket
import time
from typing import Any

import pytest

from mdl.errors import OfflineError
from mdl.resolver import Cached, ResolveOptions, Resolver
from mdl.settings import Settings
from mdl.store.rows import LocalMirror, RepositoryRow
from tests.resolver.conftest import OneCached

NAME = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_packaged_catalogue_works_from_the_first_run(settings: Settings) -> None:
    resolver = Resolver(settings)
    answer = resolver.resolve(NAME.lower(), ResolveOptions("bnb-4bit"))
    assert answer.repo_id == "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"
    assert answer.canonical == NAME
    assert answer.access == "unknown"
    resolver.close()


def test_an_unknown_name_is_not_guessed(settings: Settings) -> None:
    resolver = Resolver(settings)
    answer = resolver.resolve("nobody/knows-this")
    assert isinstance(answer.error, OfflineError)
    assert answer.error.exit_code == 5
    resolver.close()


def test_a_cached_repository_resolves_from_the_cache_alone(settings: Settings) -> None:
    here = Cached(True, "/cache/x", 10, "e" * 40, "Me/My-Model")
    resolver = Resolver(settings, OneCached("Me/My-Model", here))
    answer = resolver.resolve("me/MY-model", ResolveOptions(exact=True)).checked()
    assert (answer.repo_id, answer.commit) == ("Me/My-Model", "e" * 40)
    assert answer.cached is not None
    assert answer.cached.complete
    resolver.close()


@pytest.mark.parametrize("revision", [None, "v1"])
def test_commits_without_a_ref_are_named(settings: Settings, revision: str | None) -> None:
    resolver = Resolver(settings, OneCached("Me/My-Model", None, "e" * 40, "d" * 40))
    refused = resolver.resolve("me/my-model", ResolveOptions(revision=revision)).error
    assert isinstance(refused, OfflineError)
    assert f"no ref {revision or 'main'} to a commit" in str(refused.why)
    assert f"--revision {'e' * 40}" in str(refused.next)
    assert refused.details["commits"] == ["e" * 40, "d" * 40]
    resolver.close()


def test_a_ref_that_is_here_and_resembles_it_is_named(settings: Settings) -> None:
    resolver = Resolver(settings, OneCached("Me/My-Model", None, "dev", "main", "e" * 40))
    refused = resolver.resolve("me/my-model", ResolveOptions(revision="mian")).error
    assert refused is not None
    assert "--revision main" in refused.next
    assert refused.details["commits"] == ["e" * 40]
    resolver.close()


def test_ten_thousand_names_in_one_process(settings: Settings) -> None:
    resolver = Resolver(settings)
    names = [NAME, "unsloth/gemma-2b"] * 5_000
    answers = list(resolver.resolve_many(names, ResolveOptions("bnb-4bit")))
    assert len(answers) == 10_000
    assert not any(isinstance(a, Exception) or a.error for a in answers)
    resolver.close()


def test_a_local_folder_is_used_as_it_is(settings: Settings, tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    resolver = Resolver(settings)
    answer = resolver.resolve(str(tmp_path), ResolveOptions("bnb-4bit"))
    assert (answer.repo_id, answer.rule, answer.quantize_on_load) == (str(tmp_path), "local", True)
    resolver.close()


def test_a_local_copy_counts_while_it_exists(settings: Settings, tmp_path: Any) -> None:
    """Its folder may be removed like any other, or be on another machine of the team's."""
    resolver = Resolver(settings)
    name, made = "HuggingFaceTB/SmolLM2-135M-Instruct", tmp_path / "made"
    made.mkdir()
    row = LocalMirror(str(made), name, "c" * 40, "bnb-4bit", "s", 1.0)
    resolver.catalog.record_local_mirror(row)
    options = ResolveOptions("bnb-4bit", exact=True)
    known = RepositoryRow(name, "ok", "false", None, None, "c" * 40, None, time.time())
    resolver.catalog.remember([(name.lower(), known)])
    assert [m["path"] for m in resolver.resolve(name, options).local_mirrors] == [str(made)]
    made.rmdir()
    assert resolver.resolve(name, options).local_mirrors == ()
    resolver.close()
