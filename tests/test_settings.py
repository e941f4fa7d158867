"""Settings: environment before file before defaults, and HF_* as huggingface_hub reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mdl.errors import ConfigError
from mdl.settings import load_settings, parse_duration, parse_size


def test_defaults_are_the_users_home(tmp_path: Path) -> None:
    settings = load_settings({"HOME": str(tmp_path)})
    assert Path(settings.home) == tmp_path / ".mdl"
    assert Path(settings.cache_root) == tmp_path / ".cache" / "huggingface" / "hub"
    assert settings.endpoint == "https://huggingface.co"
    assert (settings.offline, settings.token, settings.on_sqlite) == (False, None, True)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HF_HOME": "/x/hf"},
        {"HF_HUB_CACHE": "/x/hub"},
        {"XDG_CACHE_HOME": "/x/cache"},
        {"HF_HOME": "~/deep", "HF_HUB_OFFLINE": "1"},
        {"HF_ENDPOINT": "http://hub.example/", "HF_HUB_OFFLINE": "yes"},
        {"TRANSFORMERS_OFFLINE": "true"},
        {"HF_HUB_OFFLINE": "0"},
    ],
)
def test_hf_variables_mean_what_they_mean_to_huggingface_hub(
    env: dict[str, str], tmp_path: Path
) -> None:
    full = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **env}
    code = (
        "from huggingface_hub import constants as c;"
        "print(c.HF_HUB_CACHE, c.ENDPOINT.rstrip('/'), c.HF_HUB_OFFLINE)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=full, capture_output=True, text=True)
    settings = load_settings(full)
    ours = f"{settings.cache_root} {settings.endpoint} {settings.offline}"
    assert run.stdout.strip() == ours


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'server = "http://file"\nprefer = "cached"\n'
        '[cache]\nmax_size = "200GB"\nunused_for = "30d"\n'
    )
    env = {"HOME": str(tmp_path), "MDL_HOME": str(tmp_path), "MDL_SERVER": "http://env"}
    settings = load_settings(env)
    assert (settings.server, settings.prefer) == ("http://env", "cached")
    assert settings.cache.max_size == 200 * 10**9
    assert settings.cache.unused_for == 30 * 86400


@pytest.mark.parametrize(
    "text",
    ["not toml [", "[cache]\nmax_size = 'huge'", "[cache]\nnormalize = 'upper'", "cache = 1"],
)
def test_an_invalid_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_settings({"HOME": str(tmp_path), "MDL_HOME": str(tmp_path)})
    assert str(tmp_path / "config.toml") in str(refused.value)


def test_the_token_is_found_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_from_file\n")
    env = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    assert load_settings(env).token == "hf_from_file"
    settings = load_settings({**env, "HF_TOKEN": "hf_secret"})
    assert settings.token == "hf_secret"
    assert "hf_secret" not in repr(settings)


def test_a_blank_token_hides_no_other(tmp_path: Path) -> None:
    """As huggingface_hub: HF_TOKEN="  " (an empty secret of a CI job) is no token."""
    (tmp_path / "token").write_text("hf_from_file")
    env = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    for blank in ("", "  ", "\n"):
        assert load_settings({**env, "HF_TOKEN": blank}).token == "hf_from_file"


def test_an_implicit_token_may_be_switched_off(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    settings = load_settings(env)
    assert settings.token is None and "hf_x" not in repr(settings)
    asked = {given: settings.token_for(given) for given in (None, True, False, "", "hf_y")}
    assert asked == {None: None, True: "hf_x", False: None, "": None, "hf_y": "hf_y"}
    assert load_settings({**env, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}).token_for(None) == "hf_x"


@pytest.mark.parametrize(
    ("address", "why"),
    [("hf-mirror.com", "not start"), ("localhost:8642", "not start"), ("https://a hub", "space"),
     ("https://", "no host"), ("ftp://hub", "not start")],
)  # fmt: skip
def test_an_endpoint_that_is_not_a_url_is_named(tmp_path: Path, address: str, why: str) -> None:
    env = {"HOME": str(tmp_path), "HF_ENDPOINT": address}
    with pytest.raises(ConfigError, match="HF_ENDPOINT") as refused:
        load_settings(env)
    assert why in refused.value.why
    assert load_settings({**env, "HF_HUB_OFFLINE": "1"}).endpoint == address.rstrip("/")


@pytest.mark.parametrize("address", ["https://hf-mirror.com", "http://127.0.0.1:8642/hub/"])
def test_white_space_around_an_endpoint_is_ignored(tmp_path: Path, address: str) -> None:
    env = {"HOME": str(tmp_path), "HF_ENDPOINT": f" {address} \n"}
    assert load_settings(env).endpoint == address.rstrip("/")


def test_sizes_and_durations() -> None:
    assert [parse_size(t) for t in ("200GB", "1.5T", "50 GiB", "7", 12)] == [
        200 * 10**9, 1_500 * 10**9, 50 * 2**30, 7, 12,
    ]  # fmt: skip
    assert [parse_duration(t) for t in ("12h", "30d", "2w", "3mo", "1Y", "1.5", 1)] == [
        43200, 30 * 86400, 14 * 86400, 90 * 86400, 365 * 86400, 129600, 86400,
    ]  # fmt: skip
    for wrong in ("", "GB", "-1", "1x", True):
        with pytest.raises(ConfigError):
            parse_size(wrong)
        with pytest.raises(ConfigError):
            parse_duration(wrong)


def test_minutes_and_seconds_are_refused_where_days_are_meant() -> None:
    """`unused_for=3m` once meant three minutes, and would have removed nearly everything."""
    for text, advice in (("3m", "Write 3mo"), ("0.5 M", "Write 0.5mo"), ("30s", "a unit")):
        with pytest.raises(ConfigError) as refused:
            parse_duration(text)
        assert advice in refused.value.next


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prefer = 'mirror'", "prefer is 'mirror'"),
        ("hub_timeout = 'soon'", "hub_timeout is 'soon'"),
        ("hub_timeout = -1", "time-out -1"),
        ("hub_timeout = nan", "time-out nan"),
        ("cache = 5", "cache is 5"),
        ("database_url = 5", "database_url is 5"),
        ("[cache]\ndetached = 'yes'", "detached is 'yes'"),
        ("[cache]\nkeep_last = true", "keep_last is True"),
        ("[cache]\nkeep_last = 0", "cache.keep_last is 0"),
        ("[cache]\nlow_watermark = 7", "cache.low_watermark is 7"),
        ("[cache]\ntrash_days = -1", "cache.trash_days is -1"),
        ("[cache]\nmax_size = 'huge'", "cache.max_size: 'huge'"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load_settings({"HOME": str(tmp_path), "MDL_HOME": str(tmp_path)})
    assert refused.value.next


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_timeout_is_a_number_of_seconds(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        load_settings({"HOME": str(tmp_path), "MDL_HUB_TIMEOUT": value})


def test_mdl_config_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_settings({"HOME": str(tmp_path), "MDL_CONFIG": str(tmp_path / "nowhere.toml")})


def test_a_token_pasted_over_two_lines_is_one_token(tmp_path: Path) -> None:
    """As huggingface_hub reads it: a line break inside would be refused as a header."""
    assert load_settings({"HOME": str(tmp_path), "HF_TOKEN": "hf_ab\r\ncd\n"}).token == "hf_abcd"
