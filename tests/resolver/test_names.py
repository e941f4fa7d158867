"""What counts as a name, what as a folder, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl.errors import MdlError, NameRefusedError, NotFoundError
from mdl.resolver.names import is_commit, parse_name, parse_revision

PARTS = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}[A-Za-z0-9_]\Z").filter(
    lambda p: ".." not in p and "--" not in p and not p.lower().endswith((".git", ".ipynb"))
)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a/b/c", "more than one"),
        ("org/../name", "'..'"),
        ("org/na\0me", "character '\\x00'"),
        ("org/na\nme", "character '\\n'"),
        ("org/nаme", "CYRILLIC SMALL LETTER A"),
        ("org/name?x=1", "character '?'"),
        ("https://example.com/org/name", "an address"),
        ("org/name.git", ".git"),
        ("org/-name", "starts or ends"),
        ("org--name", "'--'"),
        ("x" * 10_000, "10000 characters"),
        ("org/" + "x" * 97, "97 characters; the Hub allows 96"),
        ("org/" + "\ud800", "'\\ud800'"),
    ],
)
def test_a_hostile_name_is_rejected_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(NameRefusedError) as caught:
        parse_name(name)
    assert why in caught.value.why
    assert caught.value.exit_code == 2
    # What is echoed must be short and safe for a terminal.
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable() or "\n" in str(caught.value)


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ("https://hub.example/org/name", "Write org/name."),
        ("hub.example/org/name/", "Write org/name."),
        ("http://127.0.0.1:8000/org/name?library=transformers", "Write org/name."),
        ("https://huggingface.co/org/name/tree/v1", "Write org/name, and 'v1' as its revision."),
        ("https://huggingface.co/org/name/blob/main/x.json", "and 'main' as its revision."),
        ("hf://org/name@v1", "Write org/name, and 'v1' as its revision."),
        ("org/name@refs/pr/1", "Write org/name, and 'refs/pr/1' as its revision."),
        ("https://huggingface.co/datasets/org/name", "in the model page's title"),
        ("https://example.com", "in the model page's title"),
        ("a/b/c", "in the model page's title"),
    ],
)
def test_pasted_forms_are_understood(pasted: str, meant: str) -> None:
    with pytest.raises(NameRefusedError) as caught:
        parse_name(pasted)
    assert meant in caught.value.next


@pytest.mark.parametrize(
    "typed",
    [
        "https://huggingface.co/Org/Name",
        "http://huggingface.co/Org/Name/",
        "huggingface.co/Org/Name",
        "https://hf.co/Org/Name?library=transformers",
        "https://huggingface.co/Org/Name/tree/main",
        "http://127.0.0.1:8642/Org/Name",
        "hf://Org/Name",
        "hf://models/Org/Name",
        "model/Org/Name",
        "models/Org/Name",
        "Org/Name/",
        "models--Org--Name",
        "Org\\Name",
    ],
)
def test_unambiguous_forms_are_understood(typed: str) -> None:
    name = parse_name(f" {typed} ", endpoint="http://127.0.0.1:8642")
    assert (name.text, name.key, name.path, name.typed) == ("Org/Name", "org/name", None, typed)


def test_a_name_without_an_owner_is_understood_too() -> None:
    for typed in ("models--gpt2", "https://huggingface.co/gpt2", "gpt2/"):
        assert parse_name(typed).text == "gpt2"


def test_a_model_in_a_folder_of_such_a_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `org/name`: a folder without a model, such as a cache's, hides no repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models--Org--Name").mkdir()
    assert parse_name("models--Org--Name").text == "Org/Name"
    assert parse_name("models--Org--Name/").path, "a slash behind it says that it is a folder"
    (tmp_path / "models--Org--Name" / "config.json").write_text("{}")
    assert parse_name("models--Org--Name").path == str(tmp_path / "models--Org--Name")


def test_the_owner_and_the_name_may_have_96_characters_each() -> None:
    longest = f"{'o' * 96}/{'n' * 96}"
    assert parse_name(longest).text == longest
    for owner, name in ((97, 1), (1, 97)):
        with pytest.raises(NameRefusedError):
            parse_name(f"{'o' * owner}/{'n' * name}")


@pytest.mark.parametrize(
    "name", ["../../no-such", "/no/such/folder", "~/nothing-of-that-name", "./x"]
)
def test_a_path_must_be_a_folder(name: str) -> None:
    with pytest.raises(NotFoundError, match="There is no folder"):
        parse_name(name)


def test_a_server_rejects_paths(tmp_path: Path) -> None:
    with pytest.raises(NameRefusedError):
        parse_name(str(tmp_path), allow_local=False)


def test_a_folder_wins_over_a_repository_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_name("org/name").path is None, "an empty folder hides no repository"
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    assert parse_name("org/name").path == str(tmp_path / "org" / "name")


@given(owner=PARTS, name=PARTS)
def test_casing_never_changes_the_key(owner: str, name: str) -> None:
    full = f"{owner}/{name}"
    keys = {parse_name(text, allow_local=False).key for text in (full, full.upper(), full.lower())}
    assert keys == {full.lower()}


@given(st.text(max_size=200))
def test_any_text_is_a_name_or_a_refusal(text: str) -> None:
    try:
        assert parse_name(text, allow_local=False).key.isascii()
    except MdlError as error:
        assert error.exit_code in (2, 3)


@pytest.mark.parametrize("revision", ["../x", "a b", "", "-x", "x" * 300, "a//b"])
def test_a_hostile_revision_is_rejected(revision: str) -> None:
    with pytest.raises(NameRefusedError):
        parse_revision(revision)


def test_common_revisions_are_accepted() -> None:
    for revision in ("main", "v1.0", "refs/pr/1", "a" * 40):
        assert parse_revision(revision) == revision
    assert is_commit("a" * 40)
    assert not is_commit("main")
