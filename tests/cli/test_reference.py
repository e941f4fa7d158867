"""Each command has help, and the reference page is what the commands say."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest

from mdl.cli.cache import group as cache
from mdl.cli.entry import run
from mdl.cli.group import COMMANDS, GROUPS, SHORT_FORMS, LazyGroup, cli
from mdl.cli.output import FilePath

DOCS = Path(__file__).parents[2] / "docs"


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_command_and_option_says_what_it_does() -> None:
    for path, command in reference().commands(cli, "mdl"):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.name}"


def test_the_one_line_help_of_each_command_is_there() -> None:
    for group, commands in ((cli, COMMANDS), (cache.cache, cache.COMMANDS)):
        assert isinstance(group, LazyGroup)
        context = click.Context(group)
        for name, (_, line) in commands.items():
            assert isinstance(group.get_command(context, name), click.Command), name
            assert line.endswith(".")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cach"], "Did you mean cache?"),
        (["cache", "prun"], "Did you mean prune?"),
        (["cache", "frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_a_mistyped_command_gets_suggestions(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert f"Try 'mdl{' cache' if len(words) > 1 else ''} --help'" in shown


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["ls"], "mdl cache ls"),
        (["rm", "Org/Name", "--yes"], "mdl cache rm Org/Name --yes"),
        (["ls", "-f", "size > 1GB"], "mdl cache ls -f 'size > 1GB'"),
        (["download", "Org/Name"], "mdl pull Org/Name"),
        (["generate", "Org/Name"], "mdl load Org/Name --prompt TEXT"),
        (["help", "pull"], "mdl pull --help"),
        (["cache", "delete", "Org/Name"], "mdl cache rm Org/Name"),
    ],
)
def test_a_short_form_is_answered_with_the_command(
    words: list[str], instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert f"Run: {instead}\n" in capsys.readouterr().err
    assert run([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_each_short_form_leads_to_a_command() -> None:
    for group, forms in ((cli, SHORT_FORMS), (cache.cache, cache.SHORT_FORMS)):
        known = dict(reference().commands(group, "mdl"))
        for form in forms.values():
            words = [word for word in form.split() if word.islower() and word.isalpha()]
            assert " ".join(["mdl", *words]) in known, form


def test_help_begins_with_a_first_step_and_has_every_command_in_one_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    step = re.search(r"^ +mdl (\w+) .*$", shown, re.MULTILINE)
    assert step is not None and step[1] == "resolve"
    grouped = [name for names in GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(COMMANDS) and len(GROUPS) == 3
    assert all(f"\n{title}:\n" in shown for title in GROUPS)


def test_each_command_takes_json() -> None:
    for path, command in reference().commands(cli, "mdl"):
        if not isinstance(command, click.Group):
            assert any("--json" in p.opts for p in command.params), path


def test_commands_that_change_something_take_dry_run_and_yes() -> None:
    commands = dict(reference().commands(cli, "mdl"))
    for path in CHANGING:
        options = {name for p in commands[path].params for name in p.opts}
        assert {"--dry-run", "--yes", "-y"} <= options, path


def test_no_path_may_be_empty() -> None:
    """pathlib would read the folder one is in."""
    for path, command in reference().commands(cli, "mdl"):
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                assert isinstance(parameter.type, FilePath), f"{path} {parameter.name}"


CHANGING = {
    *("mdl lock", "mdl pull", "mdl load", "mdl catalog add", "mdl catalog rm"),
    *("mdl catalog import", "mdl catalog sync", "mdl catalog check", "mdl cache prune"),
    *("mdl cache rm", "mdl cache normalize", "mdl cache pin", "mdl cache unpin"),
    *("mdl cache verify", "mdl config set", "mdl completion"),
    *("mdl cache trash restore", "mdl cache trash empty", "mdl cache undo", "mdl daemon install"),
}


def test_the_reference_page_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text() == reference().reference(), "run `make docs`"
    assert (DOCS / "mdl.1").read_text() == reference().man_page(), "run `make docs`"


@pytest.mark.skipif(shutil.which("man") is None, reason="no man")
def test_the_man_page_renders_without_warnings_and_has_every_option() -> None:
    """As `man mdl` shows it."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(DOCS / "mdl.1")],
        env={**os.environ, "MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for path, command in reference().commands(cli, "mdl"):
        assert path in done.stdout
        for parameter in command.params:
            if isinstance(parameter, click.Option) and path != "mdl" and not parameter.hidden:
                assert parameter.opts[0] in done.stdout, f"{path} {parameter.opts[0]}"
