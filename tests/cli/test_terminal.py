"""What a terminal is sent: no control character of a name, a message or a model gets there."""

import io
import sys

import pytest

from mdl.cli.entry import run
from mdl.cli.terminal import CleanStream, clean
from tests.cli.conftest import Run
from tests.hub import LoopbackHub

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x1b[8mhidden\x1b[0m\x9b1A\u202e\x7f\rover"


def test_the_hubs_message_reaches_no_terminal_raw(mdl: Run, hub: LoopbackHub) -> None:
    hub.add_repo("org/gated", gated="manual")
    evil = HOSTILE.replace("\r", "").replace("\u202e", "")
    hub.fault(path="/api/models/*", status=403, times=None,
              headers={"X-Error-Code": "GatedRepo", "X-Error-Message": evil})  # fmt: skip
    for command in (["access", "org/gated"], ["resolve", "org/gated", "--exact"]):
        ran = mdl(*command)
        assert "owned" in ran.err + ran.out, "the message is shown"
        assert not any(c in ran.err + ran.out for c in "\x1b\x07\x9b\x7f"), ran


@pytest.mark.parametrize("styles", [True, False])
def test_controls_are_escaped_and_what_people_write_is_not(styles: bool) -> None:
    shown = clean(HOSTILE, styles=styles)
    assert "\x1b[0m" in shown if styles else "\x1b" not in shown
    assert not any(c in shown.replace("\x1b[0m", "") for c in "\x1b\x07\x9b\x7f\r\u202e")
    assert "\\x1b[2J" in shown and "\\x1b[8mhidden" in shown and "\\rover" in shown
    for text in ("größer → 模型\t👩‍💻\r\n", "plain\n"):
        assert clean(text, styles=styles) == text


def test_colours_are_left_alone_where_mdl_sets_them() -> None:
    assert clean("\x1b[1;31mbroken\x1b[0m", styles=True) == "\x1b[1;31mbroken\x1b[0m"
    assert clean("\x1b[38;5;8m", styles=True) == "\\x1b[38;5;8m"


def test_a_bar_is_drawn_again_and_nothing_else_moves_the_cursor() -> None:
    out = io.StringIO()
    stream = CleanStream(out, redraws=True)
    stream.write("\r\x1b[K 50%")
    stream.write("error: \r\x1b[K100%")
    assert out.getvalue() == "\r\x1b[K 50%error: \\r\\x1b[K100%"


def test_a_library_that_prints_is_cleaned_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def settings() -> None:
        print(f"loading {HOSTILE}")
        print(f"warning {HOSTILE}", file=sys.stderr)
        sys.exit(0)

    monkeypatch.setattr("mdl.cli.cache.options.load_settings", settings)
    with pytest.raises(SystemExit):
        run(["cache", "ls"])
    for text in capsys.readouterr():
        assert "owned" in text and "\x07" not in text and "\r" not in text


def test_a_terminal_that_only_knows_ascii_is_cleaned_too(mdl: Run) -> None:
    ran = mdl("resolve", "org/\x1b[2Jname", PYTHONIOENCODING="ascii")
    assert ran.code == 2 and "\x1b" not in ran.err + ran.out
