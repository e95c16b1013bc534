"""A small server of the hub's API for models, over real HTTP: repositories, LFS uploads, commits, branches, tags."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secret"


class Hub:
    """Use as a context; `repos` is what was committed: name -> branch -> path -> bytes.

    Args:
        refuse_after: number of LFS uploads after which the server refuses them.
    """

    def __init__(self, refuse_after: int | None = None) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.messages: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.refuse_after = refuse_after

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").split("?")[0]
        if name not in self.hub.repos:
            return self._answer(404, {"error": "Repository not found"})
        return self._answer(200, {"id": name, "sha": "0" * 40, "private": self.hub.private[name], "siblings": [], "tags": []})

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.rsplit("/", 1)[-1]
        if self.hub.refuse_after is not None and len(self.hub.uploads) >= self.hub.refuse_after:
            return self._answer(403, {"error": "over quota"})
        if hashlib.sha256(data).hexdigest() != oid:
            return self._answer(400, {"error": "these are other bytes"})
        self.hub.uploads.append(oid)
        self.hub.objects[oid] = data
        return self._answer(200, {})

    def do_POST(self) -> None:
        body, path = self._body(), self.path.split("?")[0]
        if self.headers.get("authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
            return self._answer(401, {"error": "Invalid user token"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._answer(
                200, {"transfer": "basic", "objects": [self._object(each) for each in json.loads(body)["objects"]]}
            )
        if path == "/verify":
            return self._answer(200 if json.loads(body)["oid"] in self.hub.objects else 404, {})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch|tag)/([^/]+)", path)
        if not found or found[1] not in self.hub.repos:
            return self._answer(404, {"error": "Repository not found"})
        return getattr(self, f"_{found[2]}")(found[1], found[3], body)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.repos[name], self.hub.tags[name] = {"main": {}}, {}
        self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._answer(200, {"url": f"{self.hub.url}/{name}", "id": name})

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.objects:
            return {"oid": asked["oid"], "size": asked["size"]}
        actions = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}, "verify": {"href": f"{self.hub.url}/verify"}}
        return {"oid": asked["oid"], "size": asked["size"], "actions": actions}

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        files = [
            {
                "path": each["path"],
                "shouldIgnore": False,
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
            }
            for each in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        tree = self.hub.repos[name].setdefault(revision, {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def _branch(self, name: str, revision: str, body: bytes) -> None:
        self.hub.repos[name].setdefault(revision, {})
        self._answer(200, {})

    def _tag(self, name: str, revision: str, body: bytes) -> None:
        tag = json.loads(body)["tag"]
        if tag in self.hub.tags[name]:
            return self._answer(409, {"error": f"Tag reference exists already: {tag}"})
        self.hub.tags[name][tag] = revision
        return self._answer(200, {})
