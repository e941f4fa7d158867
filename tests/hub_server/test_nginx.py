"""nginx in front: mdl decides, nginx sends the bytes."""

import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.hub import LoopbackHub
from tests.hub.hub import free_port
from tests.hub_server.conftest import Serve
from tests.hub_server.test_files import BIG, FILES, PATH, WHOLE, downloads

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


@pytest.mark.system("nginx")
def test_nginx_sends_what_mdl_allows(hub: LoopbackHub, between: Serve, tmp_path: Path) -> None:
    hub.add_repo("Org/Model", files=FILES)
    hub.add_repo("Org/Gated", files=FILES, gated="manual")
    here = between("--hub-accel", "/cached/")
    port = free_port()
    blocks = re.findall(r"```nginx\n(location.*?)```", DEPLOY.read_text(), re.DOTALL)
    locations = blocks[0].replace("127.0.0.1:8642", here.url.partition("://")[2])
    locations = locations.replace("/srv/models/hub/", f"{here.cache}/")
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; user root; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}"
        f"http {{ access_log {tmp_path}/access.log; server {{ listen 127.0.0.1:{port};"
        f"{locations} }} }}"
    )
    with subprocess.Popen(["nginx", "-c", str(config), "-p", str(tmp_path)]) as nginx:
        try:
            here.url = f"http://127.0.0.1:{port}"
            url = f"{here.url}/{PATH}"
            transport = httpx2.HTTPTransport(retries=10)
            with httpx2.Client(transport=transport, timeout=60) as client:
                assert client.get(url).content == BIG  # while it fills: through mdl
                part = client.get(url, headers={"Range": "bytes=5-14"})
                assert (part.status_code, part.content) == (206, BIG[5:15])
                assert "accept-ranges" in part.headers
                assert "x-accel-redirect" not in part.headers
                blob = f"{here.url}/cached/models--Org--Model/blobs/{WHOLE[1]}"
                assert client.get(blob).status_code == 404
                gated = url.replace("Org/Model", "Org/Gated")
                assert client.get(gated).status_code == 401
            assert here.download("a", "Org/Model", "model.safetensors") == WHOLE
            assert len(downloads(hub)) == 1
        finally:
            nginx.terminate()
