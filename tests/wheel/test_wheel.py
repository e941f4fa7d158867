"""What is shipped: the built wheel's content, and that it works and stays light on its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What costs half a second or more to import, or belongs to an extra.
HEAVY = {
    "torch", "transformers", "sqlalchemy", "alembic", "huggingface_hub", "bitsandbytes", "triton",
    "numpy", "fastapi", "uvicorn", "watchdog", "httpx", "httpx2", "requests",
}  # fmt: skip
# A few milliseconds each: nothing beside a model, too much beside the answer to one name.
SLOW_FOR_A_NAME = {"pathlib", "dataclasses", "json"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the wheel, and not this checkout, is `mdl`."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--target", target, wheel],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {**os.environ, "PYTHONPATH": str(target), "MDL_HOME": str(target / "home")}


def python(code: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    folders = {t for t in top if not t.endswith((".dist-info", ".data"))}
    assert folders == {"mdl"}
    beside = [n.partition(".data/")[2] for n in names if ".data/" in n]
    assert beside == ["data/share/man/man1/mdl.1"]
    for needed in (
        "mdl/py.typed",
        "mdl/store/packaged.json",
        "mdl/migrations/env.py",
        "mdl/migrations/versions/0001_catalogue.py",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [n for n in names if "test" in n or n.endswith((".pyc", ".db"))]
    # Everything git tracks below mdl/ is in it.
    tracked = subprocess.run(
        ["git", "ls-files", "mdl"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= set(names)


def test_it_is_the_wheel_that_runs(installed: dict[str, str], tmp_path: Path) -> None:
    where = python("import mdl; print(mdl.__file__)", installed, tmp_path)
    assert where.startswith(installed["PYTHONPATH"])


@pytest.mark.parametrize(
    "code",
    [
        "import mdl; dir(mdl); mdl.MdlError; mdl.Settings",
        "from mdl.cli.group import cli; cli.main(['--help'], standalone_mode=False)",
        "from mdl.cli.entry import main\n"
        "try: main(['cache', 'ls', '--json'])\n"
        "except SystemExit as e: assert not e.code, e.code",
        "from mdl.cli.entry import main\n"
        "try: main(['resolve', 'meta-llama/Llama-3.1-8B', '--4bit', '--offline'])\n"
        "except SystemExit as e: assert not e.code, e.code",
    ],
    ids=["import mdl", "mdl --help", "mdl cache ls", "mdl resolve --offline"],
)
def test_common_paths_import_nothing_heavy(
    code: str, installed: dict[str, str], tmp_path: Path
) -> None:
    env = {**installed, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    # The first answer makes the database, through SQLAlchemy and Alembic; every later one must not.
    python("from mdl.store.catalog import open_catalog; from mdl.settings import load_settings;"
           "open_catalog(load_settings()).database.close()", env, tmp_path)  # fmt: skip
    refused = HEAVY | SLOW_FOR_A_NAME if "resolve" in code else HEAVY
    extra = _imported(code, env, tmp_path) - _imported("", env, tmp_path)
    assert extra & refused == set()


def _imported(code: str, env: dict[str, str], folder: Path) -> set[str]:
    """The packages that a process has after running `code`."""
    listing = f"{code}\nimport sys\nprint(); print(*sys.modules)"
    return {name.split(".")[0] for name in python(listing, env, folder).splitlines()[-1].split()}


def test_the_command_of_the_wheel_answers(installed: dict[str, str], tmp_path: Path) -> None:
    script = Path(installed["PYTHONPATH"]) / "bin" / "mdl"
    done = subprocess.run(
        [sys.executable, script, "--help"],
        env=installed, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    for command in ("resolve", "pull", "load", "cache", "catalog", "kernels"):
        assert command in done.stdout
