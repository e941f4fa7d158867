"""`mdl doctor` finds what is wrong and says what to do."""

from importlib.util import find_spec
from pathlib import Path

from tests.cli.conftest import Run
from tests.hub import LoopbackHub


def test_a_healthy_machine(mdl: Run, hub: LoopbackHub) -> None:
    hub.add_user("hf_me", "me")
    ran = mdl("doctor", "--json", HF_TOKEN="hf_me")
    states = {check["what"]: check["state"] for check in ran.json["checks"]}
    assert states["database"] == states["Hub"] == states["token"] == "ok"
    assert states["torch"] == ("ok" if find_spec("torch") else "note")
    (line,) = [c["found"] for c in ran.json["checks"] if c["what"] == "Hub"]
    assert line.endswith("as me")
    assert "hf_me" not in ran.out


def test_a_bad_token_a_dead_hub_and_a_broken_database(
    mdl: Run, hub: LoopbackHub, tmp_path: Path
) -> None:
    bad = mdl("doctor", HF_TOKEN="hf_unknown")
    assert (bad.code, "does not accept the token" in bad.out) == (1, True)
    dead = mdl("doctor", HF_ENDPOINT="http://127.0.0.1:9")
    assert (dead.code, "does not answer" in dead.out) == (1, True)
    hub.fault(status=503, headers={"X-Error-Message": "closed for repairs"}, times=None)
    assert "closed for repairs" in mdl("doctor").out
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "mdl.db").write_text("no database at all")
    ran = mdl("doctor", "--offline", MDL_HOME=str(broken))
    assert (ran.code, "is not a database" in ran.out) == (1, True)
