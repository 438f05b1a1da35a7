"""A small stand-in for the Hugging Face Hub's HTTP API, for the real client: repositories, preupload, LFS, commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import transformers.utils.hub
from huggingface_hub import constants, hf_api


def point_client_at(url: str, patch: pytest.MonkeyPatch) -> None:
    """Let the Hub's client of this process go to `url`: what it reads from the environment at import is set instead."""
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(hf_api.api, "endpoint", url)  # of the functions at the client's top level, such as `file_exists`
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # Transformers keeps one that knows its URL


class HubServer:
    """Serves on a free port of the loopback interface; use as a context manager.

    Attributes:
        url: What `HF_ENDPOINT` is set to.
        repos: `{"model:user/name": {"private": bool, "files": {path: bytes}, "commits": [message]}}`.
        blobs: LFS content by sha256.
        requests: `(method, path)` of everything asked, in order.
        bodies: What was sent with them.
        fail: Status that every request is answered with, if set.
        fail_at: Part of the paths that `fail` is for.
        says: The message that comes with it.
        disturb: `(method, path)` to what goes wrong with a request, if set: a status; `"dropped"`: the connection
            breaks in the middle of what is sent; `"unheard"`: it breaks when the work is done; `"refused"`: LFS objects
            that are refused one by one; None: nothing.
    """

    def __init__(self, token: str = "token-that-may-write", readers: tuple[str, ...] = ()) -> None:
        self.token, self.readers = token, readers
        self.repos: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploads = 0
        self.bodies: list[bytes] = []
        self.fail: int | None = None
        self.fail_at = ""
        self.says = "out of order"
        self.disturb: Callable[[str, str], int | str | None] | None = None

    def __enter__(self) -> "HubServer":
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        hub, path = self.server_hub, self.path.split("?")[0]
        self.fault = hub.disturb(self.command, path) if hub.disturb is not None else None
        if self.fault == "dropped":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return None
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append((self.command, path))
        hub.bodies.append(body)
        if hub.fail is not None and hub.fail_at in path:
            return self._answer(hub.fail, {"error": hub.says})
        if isinstance(self.fault, int):
            return self._answer(self.fault, {"error": "disturbed"})
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/storage/"):
            hub.uploads += 1
            hub.blobs[hashlib.sha256(body).hexdigest()] = body
            return self._answer(200, {})
        if given not in (hub.token, *hub.readers):
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if given in hub.readers and self.command == "POST":
            return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for kind in ("model", "dataset"):
            prefix = f"/api/{kind}s/"
            if path.startswith(prefix):
                repo_id = "/".join(path.removeprefix(prefix).split("/")[:2])
                repo = hub.repos.get(f"{kind}:{repo_id}")
                if repo is None:
                    return self._answer(404, {"error": "Repository not found"}, "RepoNotFound")
                return self._repo(path.removeprefix(prefix + repo_id), body, repo, kind, repo_id)
        if path.endswith("/info/lfs/objects/batch"):
            return self._lfs(json.loads(body))
        if "/resolve/" in path:
            place, _, rest = path.removeprefix("/").partition("/resolve/")
            kind, repo_id = ("dataset", place[9:]) if place.startswith("datasets/") else ("model", place)
            name = rest.split("/", 1)[1]
            content = hub.repos.get(f"{kind}:{repo_id}", {}).get("files", {}).get(name)
            if content is None:
                return self._answer(404, {"error": "Entry not found"}, "EntryNotFound")
            return self._answer(200, content)
        return self._answer(404, {"error": f"no such path: {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        kind = wanted.get("type") or "model"
        repo_id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        url = f"{self.server_hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        key = f"{kind}:{repo_id}"
        if key in self.server_hub.repos:
            return self._answer(409, {"error": "You already created this repo", "url": url})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.server_hub.repos[key] = {"private": private, "files": {}, "commits": []}
        return self._answer(200, {"url": url, "name": repo_id})

    def _repo(self, action: str, body: bytes, repo: dict[str, Any], kind: str, repo_id: str) -> None:
        if action.startswith("/preupload/"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png", ".parquet")) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if action.startswith("/commit/"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "header":
                    repo["commits"].append(entry["value"]["summary"])
                elif entry["key"] == "file":
                    repo["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    repo["files"][entry["value"]["path"]] = self.server_hub.blobs[entry["value"]["oid"]]
            commit = hashlib.sha1(body).hexdigest()
            url = f"{self.server_hub.url}/{repo_id}/commit/{commit}"
            return self._answer(200, {"commitUrl": url, "commitOid": commit, "success": True})
        if action.startswith(("/tree/", "/paths-info/")):
            wanted = set(parse_qs(body.decode()).get("paths", [])) if action.startswith("/paths-info/") else None
            below = unquote(action).split("/", 3)[3] + "/" if action.count("/") > 2 else ""
            return self._answer(200, _entries(repo["files"], below, wanted))
        if action.startswith("/revision/") or not action:
            return self._answer(200, {"id": repo_id, "sha": "0" * 40, "siblings": [], "tags": []})
        return self._answer(404, {"error": f"no such action: {kind} {action}"})

    def _lfs(self, wanted: dict[str, Any]) -> None:
        objects = []
        for entry in wanted["objects"]:
            objects.append({"oid": entry["oid"], "size": entry["size"]})
            if self.fault == "refused":
                objects[-1]["error"] = {"code": 503, "message": "the storage is busy"}
            elif entry["oid"] not in self.server_hub.blobs:
                href = f"{self.server_hub.url}/storage/{entry['oid']}"
                objects[-1]["actions"] = {"upload": {"href": href}}
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def _answer(self, status: int, content: Any, code: str | None = None) -> None:
        if self.fault == "unheard":
            self.close_connection = True
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        if "/resolve/" in self.path and status == 200:
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(files: dict[str, bytes], below: str, wanted: set[str] | None) -> list[dict[str, Any]]:
    """Every file and folder below a folder, or those that are wanted, as the Hub describes them."""
    folders = {name.rsplit("/", depth)[0] for name in files for depth in range(1, name.count("/") + 1)}
    found: list[dict[str, Any]] = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders]
    found += [
        {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    ]
    return [e for e in found if (e["path"].startswith(below) if wanted is None else e["path"] in wanted)]
