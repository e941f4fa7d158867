"""`mdl chat` keeps a conversation, and replies come as they are generated."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl.cli.entry import run
from mdl.errors import UsageError
from mdl.loader import Conversation, Loaded, reply_to
from tests.loader.tiny import TEMPLATE
from tests.terminal import TerminalProcess

TinyModel = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of its own, also for the model that the tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDL_HOME", str(tmp_path_factory.mktemp("mdl")))
        yield


@pytest.fixture(scope="module")
def loaded(tiny_model: TinyModel, home: None) -> Loaded:
    return mdl.load(str(tiny_model("llama")))


@pytest.fixture
def changed(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with other values in one of its JSON files."""

    def change(name: str, **values: Any) -> Path:
        folder = shutil.copytree(tiny_model("llama"), tmp_path / "changed")
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        return folder

    return change


def test_a_reply_is_shown_piece_by_piece(loaded: Loaded) -> None:
    pieces: list[str] = []
    reply = reply_to(loaded, "What is asked?", 40, show=pieces.append)
    assert len(pieces) > 2 and "".join(pieces).strip() == reply
    assert reply == reply_to(loaded, "What is asked?", 40)


def test_each_message_is_read_with_those_before_it(loaded: Loaded) -> None:
    asked: list[Any] = []
    tokenizer = loaded.tokenizer
    apply = tokenizer.apply_chat_template
    tokenizer.apply_chat_template = lambda m, **k: (asked.append(list(m)), apply(m, **k))[1]
    try:
        conversation = Conversation(loaded, "Be brief.")
        first = conversation.reply("One", 4)
        conversation.reply("Two", 4)
        conversation.reset()
        conversation.reply("Three", 4)
    finally:
        del tokenizer.apply_chat_template
    system = {"role": "system", "content": "Be brief."}
    assert asked[1] == [
        system,
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Two"},
    ]
    assert asked[2] == [system, {"role": "user", "content": "Three"}]


def test_what_was_said_before_an_interrupt_is_kept(loaded: Loaded) -> None:
    def interrupt(piece: str) -> None:
        if piece:
            raise KeyboardInterrupt

    conversation = Conversation(loaded)
    with pytest.raises(KeyboardInterrupt):
        conversation.reply("One", 60, interrupt)
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"]


def test_a_conversation_longer_than_the_context_is_refused_and_forgets_nothing(
    loaded: Loaded,
) -> None:
    conversation = Conversation(loaded)
    conversation.reply("One", 4)
    before = list(conversation.messages)
    with pytest.raises(UsageError, match="longer than the model") as refused:
        conversation.reply("word " * 200, 4)
    assert "/reset" in refused.value.next
    assert conversation.messages == before


def test_a_model_without_a_chat_template_is_named(
    changed: Callable[..., Path], capsys: Any
) -> None:
    folder = changed("tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert run(["chat", str(folder)]) == 1
    printed = capsys.readouterr().err
    assert "has no chat template" in printed and "mdl load NAME --prompt" in printed


def test_a_template_that_rejects_a_system_message_says_so(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = changed("tokenizer_config.json")
    rule = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(rule + TEMPLATE)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert run(["chat", str(folder), "--system", "Be brief."]) == 1
    printed = capsys.readouterr().err
    assert "no system" in printed and "--system" in printed


def test_lines_of_a_pipe_are_messages(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    chat = ["chat", str(tiny_model("llama")), "--max-new-tokens", "4", "--json"]
    monkeypatch.setattr("sys.stdin", io.StringIO("One\n\n/reset\nTwo\n/exit\nThree\n"))
    assert run(chat) == 0
    report, *replies = map(json.loads, capsys.readouterr().out.splitlines())
    assert report["model_class"] == "LlamaForCausalLM"
    assert [reply["message"] for reply in replies] == ["One", "Two"]
    assert run([*chat, "--dry-run"]) == 0


def test_ctrl_c_stops_a_reply_and_ctrl_d_the_chat(
    changed: Callable[..., Path], hub_env: dict[str, str]
) -> None:
    folder = changed("config.json", max_position_embeddings=1_000_000)
    chat = [sys.executable, "-m", "mdl", "chat", str(folder), "--max-new-tokens", "900000"]
    with TerminalProcess(chat, hub_env) as terminal:
        terminal.expect("LlamaForCausalLM")
        terminal.expect("> ")
        terminal.type("/help\n")
        terminal.expect("/reset")
        terminal.expect("> ")
        terminal.type("Tell me\n")
        terminal.expect(r"Tell me\n.")
        terminal.interrupt()
        terminal.expect("stopped", 5)
        terminal.expect("> ")
        terminal.type("Unfinished")
        terminal.interrupt()
        terminal.expect("Ctrl-D ends")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.end(20) == 0
        assert "Traceback" not in terminal.shown


def test_bytes_that_are_not_utf_8_lose_no_conversation(loaded: Loaded) -> None:
    text = b"caf\xe9".decode(errors="surrogateescape")
    assert reply_to(loaded, text, 2) == reply_to(loaded, "caf\ufffd", 2)
    conversation = Conversation(loaded, system=text)
    conversation.reply(text, 2)
    assert {message["content"] for message in conversation.messages[:2]} == {"caf\ufffd"}
