"""What uploads ask of the Hub: make a repository, how each file is to come, and the commit.

As `HfApi.create_repo` and `HfApi.upload_folder` of huggingface_hub 2.4 ask and read it; every file
comes with the commit itself, as small ones do on the Hub.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub.hub import LoopbackHub


def write(hub: LoopbackHub, user: str, route: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """(status, answer) of a POST; status 404 where it is none that writes."""
    if route == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if route == "/api/repos/create":
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if repo_id in hub.repos:
            return 409, {"error": "You already created this model repo",
                         "url": f"{hub.address}/{repo_id}"}  # fmt: skip
        private = asked.get("visibility") == "private"
        hub.add_repo(repo_id, files={".gitattributes": ""}, private=private)
        return 200, {"url": f"{hub.address}/{repo_id}"}
    repo_id, _, what = route.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
    if repo_id not in hub.repos:
        return 404, {"error": "Repository not found"}
    if what == "preupload":
        names = [file["path"] for file in json.loads(body)["files"]]
        return 200, {
            "files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
        }
    if what == "commit":
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        title = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        commit = hub.commit(repo_id, {**hub.files(repo_id), **added}, title=title)
        return 200, {"commitUrl": f"{hub.address}/{repo_id}/commit/{commit}", "commitOid": commit}
    return 404, {"error": "Not found"}
