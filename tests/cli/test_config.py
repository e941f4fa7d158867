"""`mdl config`, and a configuration file with a mistake in it."""

import tomllib
from pathlib import Path

import pytest

from mdl.cli.config import changed
from mdl.errors import ConfigError
from mdl.settings import config_path, load_settings
from tests.cli.conftest import Run

WRITTEN = """\
# ours
server = "http://old"  # the team's

[cache]
# at most
max_size = "1TB"

[publishers]
trust = ["a"]
"""


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("server", "http://new", 'server = "http://old"  # the team\'s', 'server = "http://new"'),
        ("prefer", "cached", "the team's\n", 'the team\'s\nprefer = "cached"\n'),
        ("cache.max_size", "2TB", '"1TB"', '"2TB"'),
        ("cache.keep_last", 3, '"1TB"\n', '"1TB"\nkeep_last = 3\n'),
        ("cache.max_size", None, 'max_size = "1TB"\n', ""),
        ("publishers.trust", ["a", "b"], '["a"]', '["a", "b"]'),
        ("publishers.distrust", ["c"], '["a"]\n', '["a"]\ndistrust = ["c"]\n'),
        ("prefer", None, "", ""),
    ],
)
def test_one_line_changes_and_all_else_stays(name: str, value: object, old: str, new: str) -> None:
    assert changed(WRITTEN, name, value) == WRITTEN.replace(old, new, 1)


def test_a_file_begins_with_its_first_setting() -> None:
    assert changed("", "cache.max_size", "1TB") == '[cache]\nmax_size = "1TB"\n'
    assert changed("", "server", "http://x") == 'server = "http://x"\n'


@pytest.mark.parametrize(
    "text", ['cache = { max_size = "1TB" }\n', "[publishers]\ntrust = [\n 'a',\n]\n", "not toml ["]
)
def test_a_file_that_only_an_editor_can_change_is_left_alone(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        changed(changed(text, "cache.max_size", "2TB"), "publishers.trust", ["b"])
    assert "mdl config path" in refused.value.next


def test_a_setting_is_written_shown_and_removed(mdl: Run, tmp_path: Path) -> None:
    env = {"MDL_HOME": str(tmp_path / "home")}
    file = Path(mdl("config", "path", **env).out.strip())
    assert file == tmp_path / "home" / "config.toml"
    tried = mdl("config", "set", "cache.max_size", "200GB", "--dry-run", **env)
    assert (tried.code, 'max_size = "200GB"' in tried.out, file.exists()) == (0, True, False)
    for pair in (["cache.max_size", "200GB"], ["cache.keep_last=2"], ["hub_timeout", "2.5"],
                 ["publishers.trust", "bartowski, Qwen"], ["cache.detached", "true"]):  # fmt: skip
        assert mdl("config", "set", *pair, **env).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(file.read_text()) == {
        "hub_timeout": 2.5,
        "cache": {"max_size": "200GB", "keep_last": 2, "detached": True},
        "publishers": {"trust": ["bartowski", "Qwen"]},
    }
    shown = mdl("config", "show", "--json", **env, MDL_HUB_TIMEOUT="9").json["settings"]
    found = {row["name"]: (row["value"], row["source"]) for row in shown}
    assert found["cache.max_size"] == ("200GB", "file")
    assert found["hub_timeout"] == ("9", "MDL_HUB_TIMEOUT")
    assert found["cache.normalize"] == ("shared", "default")
    assert mdl("config", "set", "cache.max_size", "--unset", **env).code == 0
    assert "max_size" not in file.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set", "cache.max_size", "huge"], "cache.max_size: 'huge' is not a size"),
        (["set", "cache.normalize", "upper"], "cache.normalize is 'upper'"),
        (["set", "cache.detached", "maybe"], "cache.detached is 'maybe'"),
        (["set", "max_size", "1TB"], "Did you mean cache.max_size?"),
        (["set", "server"], "Give a value, or --unset"),
        (["show", "colour"], "There is no setting 'colour'"),
    ],
)
def test_a_wrong_setting_changes_nothing(
    mdl: Run, tmp_path: Path, words: list[str], said: str
) -> None:
    ran = mdl("config", *words, MDL_HOME=str(tmp_path / "home"))
    assert (ran.code, said in ran.err) == (2, True), ran
    assert not (tmp_path / "home" / "config.toml").exists()


def test_a_wrong_key_names_the_file_and_reading_goes_on(mdl: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('colour = "red"\n[cache]\nmax_sise = "1TB"\nkeep_last = 3\n')
    ran = mdl("config", "show", "cache.keep_last", MDL_CONFIG=str(file))
    assert (ran.code, "3" in ran.out) == (0, True), ran
    assert f"{file}: unknown setting 'colour', ignored." in ran.err
    assert f"{file}: unknown setting 'cache.max_sise', ignored. Did you mean cache.max_size?" in (
        ran.err
    )


def test_a_wrong_value_names_the_file(mdl: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[cache]\nkeep_last = 0\n")
    ran = mdl("cache", "ls", MDL_CONFIG=str(file))
    assert (ran.code, str(file) in ran.err) == (2, True)


def test_the_file_is_where_it_is_named_or_where_there_is_one(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    ours, common = tmp_path / ".mdl" / "config.toml", tmp_path / ".config" / "mdl" / "config.toml"
    assert config_path(env) == str(ours)
    common.parent.mkdir(parents=True)
    common.write_text("hub_timeout = 7\n")
    assert (config_path(env), load_settings(env).hub_timeout) == (str(common), 7)
    ours.parent.mkdir()
    ours.write_text("hub_timeout = 8\n")
    assert load_settings(env).hub_timeout == 8
    xdg = tmp_path / "xdg"
    assert config_path({**env, "MDL_HOME": "/new", "XDG_CONFIG_HOME": str(xdg)}) == str(
        xdg / "mdl" / "config.toml"
    )
    assert config_path({**env, "MDL_CONFIG": "/my.toml", "XDG_CONFIG_HOME": str(xdg)}) == "/my.toml"


def test_the_daemons_unit_reads_the_same_file(mdl: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "MDL_CONFIG": str(file)}
    made = mdl("daemon", "install", "--systemd", "--dry-run", "--json", **env).json
    assert f'Environment="MDL_CONFIG={file}"' in made["text"]
    assert made["path"] == str(tmp_path / "xdg" / "systemd" / "user" / "mdl-daemon.service")
