"""Whoever opens a model's files, and however: the report names them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdl.observe.cache_paths import CacheFiles
from mdl.observe.watcher import MOST_SMALL
from tests.observe.conftest import COMMIT, MIRROR, MODEL, OTHER, Machine, model, weights

NAME = "org/model"
OPENS = {
    "python": "open(sys.argv[1] + '/model.safetensors', 'rb').close()",
    "rust": "import safetensors; safetensors.safe_open(sys.argv[1] + '/model.safetensors', 'np')",
    "mapped": "import mmap; f = open(sys.argv[1] + '/model.safetensors', 'rb');"
    " mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)",
    "os.open": "os.close(os.open(sys.argv[1] + '/model.safetensors', os.O_RDONLY))",
    "descriptor": "d = os.open(sys.argv[1], os.O_RDONLY);"
    " os.close(os.open('model.safetensors', os.O_RDONLY, dir_fd=d))",
    "cat": "subprocess.run(['cat', sys.argv[1] + '/model.safetensors'], stdout=-3)",
    "blob": "open(os.path.realpath(sys.argv[1] + '/model.safetensors'), 'rb').close()",
    "fork": "os.fork() or open(sys.argv[1] + '/model.safetensors', 'rb').close()",
    "cleared environment": "subprocess.run(['cat', sys.argv[1] + '/model.safetensors'],"
    " stdout=-3, env={})",
    "isolated interpreter": "subprocess.run([sys.executable, '-I', '-S', '-c',"
    " 'import sys; open(sys.argv[1]).close()', sys.argv[1] + '/model.safetensors'])",
    "detached": "subprocess.run(['setsid', 'cat', sys.argv[1] + '/model.safetensors'], stdout=-3)",
    "killed": "open(sys.argv[1] + '/model.safetensors').close(); os.kill(os.getpid(), 9)",
    "crashed": "open(sys.argv[1] + '/model.safetensors').close(); os.abort()",
}


@pytest.mark.parametrize("how", OPENS)
def test_an_opening_is_seen(machine: Machine, how: str) -> None:
    snapshot = machine.add(NAME)
    ran = machine.python(f"import os, subprocess, sys; {OPENS[how]}", str(snapshot))
    assert ran.opened == {NAME: ["model.safetensors"]}, ran
    load = ran.report["loads"][0]
    assert (load["commit"], load["format"], load["weights"]) == (COMMIT, "16bit", True)
    assert load["bytes"] == len(weights())
    assert load["refs"] == ["main"]


def test_a_shell_script_of_several_programs(machine: Machine) -> None:
    one, two = machine.add("org/one", model(b"1")), machine.add("org/two", model(b"2"))
    machine.add("org/untouched")
    opens = f"{sys.executable} -c 'open(\"{two}/model.safetensors\")'"
    words = ["sh", machine.write("several.sh", f"cat {one}/config.json\n{opens}\nexit 7\n")]
    ran = machine.run(*words)
    plain = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ran.out, ran.code) == (plain.stdout, plain.returncode)
    assert ran.err.startswith("mdl run: sh ")
    assert ran.opened == {"org/one": ["config.json"], "org/two": ["model.safetensors"]}
    assert ran.code == ran.report["exit_code"] == 7
    assert [load["weights"] for load in ran.report["loads"]] == [False, True]


def test_many_programs_that_live_a_moment(machine: Machine) -> None:
    names = [f"org/model-{number:03}" for number in range(100)]
    snapshots = [machine.add(name, model(name.encode()[-1:])) for name in names]
    opens = "\n".join(f": < {snapshot}/model.safetensors" for snapshot in snapshots)
    ran = machine.run("sh", machine.write("many.sh", opens))
    assert list(ran.opened) == names


def test_very_many_small_files_of_one_folder(machine: Machine) -> None:
    """The first ones are named, and that not all are; large ones are seen all the same."""
    files = {f"{number}.json": b"%d" % number for number in range(4000)}
    large = bytes(2 << 20)
    snapshot = machine.add(NAME, {**files, "model.safetensors": large})
    reads = f"cat {snapshot}/*.json >/dev/null; cat {snapshot}/model.safetensors"
    ran = machine.run("sh", "-c", f"{reads} > /dev/null")
    assert len(ran.opened[NAME]) >= MOST_SMALL
    assert "model.safetensors" in ran.opened[NAME]
    assert "files of" in ran.report["unseen"][0]


def test_what_is_only_listed_is_not_opened(machine: Machine) -> None:
    snapshot = machine.add(NAME)
    ran = machine.run("sh", "-c", f"ls -lLR {snapshot}; test -f {snapshot}/config.json")
    assert ran.report["loads"] == []


def test_the_snapshot_is_the_one_whose_path_was_used(machine: Machine) -> None:
    """Two commits share their weights: only the path tells them apart."""
    machine.add(NAME, {**model(), "README.md": b"1"})
    older = machine.cache.revision(NAME, OTHER, {**model(), "README.md": b"2"})
    code = "import sys, huggingface_hub; open(sys.argv[1] + '/model.safetensors').close()"
    ran = machine.python(code, str(older))
    assert [(load["commit"], load["same_in"]) for load in ran.report["loads"]] == [(OTHER, [])]


def test_commits_with_the_same_files_are_all_named(machine: Machine) -> None:
    machine.cache.revision(NAME, OTHER, {**model(), "README.md": b"2"})
    snapshot = machine.add(NAME, {**model(), "README.md": b"1"})
    ran = machine.run("cat", f"{snapshot}/model.safetensors")
    assert [(x["commit"], x["same_in"]) for x in ran.report["loads"]] == [(COMMIT, [OTHER])]


def test_snapshots_are_read_anew_only_where_some_came(machine: Machine) -> None:
    def commits(files: CacheFiles) -> list[str]:
        return sorted(member.commit for member in files.members(blob))

    snapshot = machine.add(NAME)
    blob = os.path.realpath(snapshot / "config.json")
    for folder in (snapshot, snapshot.parent):
        os.utime(folder, (1, 1))
    files = CacheFiles()
    assert commits(files) == [COMMIT]
    known = files.snapshots(str(machine.cache.folder(NAME)))
    files.refresh()
    assert files.snapshots(str(machine.cache.folder(NAME))) is known
    machine.cache.revision(NAME, OTHER, model())
    files.refresh()
    assert commits(files) == [COMMIT, OTHER]
    machine.cache.revision(NAME, OTHER, {"more/b.json": model()["config.json"]})
    files.refresh()
    assert commits(files) == [COMMIT, OTHER, OTHER]


def test_the_spelling_of_the_run_is_kept(machine: Machine) -> None:
    snapshot = machine.add(MODEL.lower())
    code = "import sys, huggingface_hub; open(sys.argv[1] + '/config.json').close()"
    load = machine.python(code, str(snapshot)).report["loads"][0]
    assert (load["repo_id"], load["spelling"]) == (MODEL, MODEL.lower())


def test_what_the_catalogue_knows_is_said(machine: Machine) -> None:
    snapshot = machine.add(MIRROR)
    load = machine.run("cat", f"{snapshot}/model.safetensors").report["loads"][0]
    assert load["mirror_of"][0]["name"] == MODEL


# -- where caches may be ----------------------------------------------------------------------


def test_a_cache_that_only_a_child_names(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    snapshot = other.add(NAME)
    code = "import sys; open(sys.argv[1] + '/model.safetensors').close()"
    ran = machine.run(
        "env", f"HF_HOME={other.folder}/hf", sys.executable, "-c", code, str(snapshot)
    )
    assert ran.opened == {NAME: ["model.safetensors"]}


def test_a_cache_that_the_program_names_itself(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    snapshot = other.add(NAME)
    code = (
        "import os, sys; os.environ['HF_HOME'] = sys.argv[2]; import safetensors;" + OPENS["rust"]
    )
    ran = machine.python(code, str(snapshot), f"{other.folder}/hf")
    assert ran.opened == {NAME: ["model.safetensors"]}


def test_a_cache_directory_given_as_an_argument(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    snapshot = other.add(NAME)
    code = (
        "import sys, huggingface_hub; open(sys.argv[1] + '/config.json').close();" + OPENS["rust"]
    )
    ran = machine.python(code, str(snapshot))
    assert ran.opened == {NAME: ["config.json", "model.safetensors"]}


def test_a_cache_that_is_made_meanwhile(machine: Machine, tmp_path: Path) -> None:
    made = Machine(tmp_path / "made")
    made.add(NAME)
    root = machine.folder / "hf" / "hub"
    root.rmdir()
    reads = f"sleep 0.1; cat {root}/models--org--model/snapshots/*/model.safetensors"
    ran = machine.run("sh", "-c", f"cp -r {made.folder}/hf/hub {root}; {reads}")
    assert "model.safetensors" in ran.opened[NAME]
    assert [each["repo_id"] for each in ran.report["downloads"]] == [NAME]


def test_a_cache_behind_links(machine: Machine, tmp_path: Path) -> None:
    real = Machine(tmp_path / "disk")
    real.add("org/one")
    real.add("org/two", model(b"2"))
    hub = machine.folder / "hf" / "hub"
    hub.rmdir()
    hub.symlink_to(real.cache.root)
    (hub / "models--Org--Two").symlink_to("models--org--two")
    ran = machine.run("sh", "-c", f"cat {hub}/models--org--one/snapshots/*/config.json"
                      f" {hub}/models--Org--Two/snapshots/*/config.json")  # fmt: skip
    assert ran.opened == {"org/one": ["config.json"], "org/two": ["config.json"]}


def test_a_read_only_cache(machine: Machine) -> None:
    snapshot = machine.add(NAME)
    folders = [Path(folder) for folder, _, _ in os.walk(machine.cache.root)]
    for folder in folders:
        folder.chmod(0o555)
    try:
        ran = machine.run("cat", f"{snapshot}/model.safetensors")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert ran.opened == {NAME: ["model.safetensors"]}


def test_a_snapshot_without_links(machine: Machine) -> None:
    """As on Windows, and where `cp -rL` made the cache."""
    snapshot = machine.cache.folder(NAME) / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(weights())
    code = "import sys, time; time.sleep(0.2); open(sys.argv[1] + '/model.safetensors').close()"
    assert machine.python(code, str(snapshot)).opened == {NAME: ["model.safetensors"]}


def test_data_sets_are_named_and_are_no_models(machine: Machine) -> None:
    snapshot = machine.cache.revision("org/data", COMMIT, {"a.parquet": b"x"}, kind="datasets")
    ran = machine.run("cat", f"{snapshot}/a.parquet", options=("--expect", NAME))
    assert [load["repo_type"] for load in ran.report["loads"]] == ["dataset"]
    assert ran.report["unexpected"] == []


# -- models outside caches --------------------------------------------------------------------


def _folder(machine: Machine) -> Path:
    folder = machine.folder / "checkpoint"
    folder.mkdir()
    for name, data in model().items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_a_model(machine: Machine) -> None:
    folder = _folder(machine)
    code = "import sys, safetensors; open(sys.argv[1] + '/config.json').close();" + OPENS["rust"]
    ran = machine.python(code, str(folder))
    (found,) = ran.report["folders"]
    assert found["path"] == str(folder)
    assert [file["path"] for file in found["files"]] == ["config.json", "model.safetensors"]


def test_a_folder_that_the_command_line_names(machine: Machine) -> None:
    folder = _folder(machine)
    ran = machine.run("cat", f"{folder}/model.safetensors")
    assert [each["path"] for each in ran.report["folders"]] == [str(folder)]


def test_a_folder_to_watch(machine: Machine) -> None:
    folder = _folder(machine)
    script = machine.write("reads.sh", f"cat {folder}/model.safetensors")
    ran = machine.run("sh", script, options=("--watch", str(machine.folder)))
    assert [each["path"] for each in ran.report["folders"]] == [str(folder)]


def test_what_a_run_only_writes_it_did_not_open(machine: Machine) -> None:
    """A training saves its checkpoint."""
    folder = _folder(machine)
    script = f"cat {folder}/config.json; printf x > {folder}/adapter.safetensors"
    ran = machine.run("sh", "-c", script, options=("--watch", str(folder)))
    assert [f["path"] for f in ran.report["folders"][0]["files"]] == ["config.json"]


def test_a_mapped_model_of_a_program_that_is_not_python(machine: Machine, tmp_path: Path) -> None:
    """Held long enough for a look at /proc, though nothing else could know the folder."""
    source = machine.write("hold.c", r"""
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        int main(int count, char **words) {
            char path[4096];
            scanf("%4095s", path);
            int file = open(path, O_RDONLY);
            if (mmap(0, 16, PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED) return 1;
            while (getchar() != EOF) ;
            return 0;
        }""")  # fmt: skip
    program = str(tmp_path / "hold")
    subprocess.run(["cc", "-w", "-o", program, source], check=True)
    path = tmp_path / "elsewhere" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF" + bytes(100))
    reader = f"(echo {path}; sleep 1) | {program}"
    ran = machine.run("sh", machine.write("reads.sh", reader))
    assert [(each["path"], each["format"]) for each in ran.report["folders"]] == [
        (str(path.parent), "gguf")
    ]


# -- other people's work ----------------------------------------------------------------------


def test_other_processes_are_not_the_runs(machine: Machine) -> None:
    """Another user of the machine loads another model at the same time."""
    snapshot = machine.add(NAME)
    machine.add("org/theirs", model(b"9"))
    held = machine.cache.folder("org/theirs") / "snapshots" / COMMIT / "model.safetensors"
    go = machine.folder / "go"
    code = f"import time; f = open({str(held)!r}); open({str(go)!r}, 'w'); time.sleep(30)"
    script = f"until test -e {go}; do sleep 0.05; done; cat {snapshot}/model.safetensors"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        ran = machine.run("sh", "-c", script)
    finally:
        other.kill()
        other.wait()
    assert list(ran.opened) == [NAME]
