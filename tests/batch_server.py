"""`LLMServer` with OpenAI's `/files` and `/batches`: answers in any order, and with what goes wrong with batches.

In a process of its own: `python tests/batch_server.py`, which prints its URL; `GET /stats` tells what happened.
"""

import email
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llm_server import LLMServer


@dataclass
class BatchServer(LLMServer):
    """The server; besides the fields of `LLMServer`:

    Args:
        hold_s: Seconds until a batch has ended.
        expire: Share of the lines that a batch leaves unanswered, for the first `expired_batches` of them.
        expired_batches: Number of batches that expire.
        errors: `{HTTP status: share}` of lines that fail, in every batch that holds them; with 500, in the first alone.
        fail_batches: Number of batches, the first ones, that are refused as a whole.
        lose: Of what is created, the first so many replies are lost: the connection breaks once the batch is there.
    """

    hold_s: float = 0.0
    expire: float = 0.0
    expired_batches: int = 1
    errors: dict[int, float] = field(default_factory=dict)
    fail_batches: int = 0
    lose: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lines: list[int] = []  # of each batch that was not refused
        self._rng = random.Random(self.seed)
        self._failed: set[str] = set()

    async def _other(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any] | None:
        url = urlsplit(path)
        parts = url.path.removeprefix("/v1").strip("/").split("/")
        if parts == ["files"] and method == "POST":
            return 200, self._upload(headers, body)
        if parts[0] == "files" and parts[-1] == "content":
            return 200, self.files[parts[1]]
        if parts == ["batches"] and method == "POST":
            batch = self._create(json.loads(body))
            if self.lose:
                self.lose -= 1
                raise ConnectionResetError
            return 200, batch
        if parts == ["batches"]:
            return 200, self._list(parse_qs(url.query))
        if parts[0] == "batches":
            return 200, self._now(self.batches[parts[1]])
        return None

    def _upload(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        message = email.message_from_bytes(b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
        content = next(part.get_payload(decode=True) for part in message.get_payload() if part.get_filename())  # type: ignore[union-attr]
        return self._file(content)  # type: ignore[arg-type]

    def _file(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name, "object": "file", "bytes": len(content), "created_at": 0, "filename": name, "purpose": "batch",
            "status": "processed",
        }  # fmt: skip

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        assert given["endpoint"] == "/v1/chat/completions"
        batch = {
            **given, "id": f"batch_{len(self.batches)}", "object": "batch", "created_at": int(time.time()),
            "status": "in_progress", "ends": time.monotonic() + self.hold_s,
        }  # fmt: skip
        self.batches[batch["id"]] = batch
        return self._now(batch)

    def _now(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] == "in_progress" and time.monotonic() >= batch["ends"]:
            self._work(batch)
        return {name: value for name, value in batch.items() if name != "ends"}

    def _work(self, batch: dict[str, Any]) -> None:
        if self.fail_batches:
            self.fail_batches -= 1
            error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        self.lines.append(len(lines))
        expires = self.expire > 0 and self.expired_batches > 0
        self.expired_batches -= expires
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in lines:
            if expires and self._rng.random() < self.expire:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append(self._line(line, None, error))
                continue
            status = self._status(line["custom_id"])
            if status != 200:
                refused = {"error": {"message": "no", "type": "x", "param": None, "code": "forced"}}
                bad.append(self._line(line, {"status_code": status, "body": refused}))
                continue
            body, texts = line["body"], self._texts(line["body"], False)
            fault = self._fault(texts, False)
            reply = self._chat(body, texts, fault)
            prompt = len(json.dumps(body)) // 4
            written = sum(len(str(choice["message"]["content"])) // 4 + 1 for choice in reply["choices"])
            reply["usage"] = {"prompt_tokens": prompt, "completion_tokens": written}
            self.tokens[0] += prompt
            self.tokens[1] += written
            self.paid.update(texts)
            good.append(self._line(line, {"status_code": 200, "request_id": "r", "body": reply}))
        for name, found in (("output_file_id", good), ("error_file_id", bad)):
            self._rng.shuffle(found)
            batch[name] = self._file(b"\n".join(found) + b"\n")["id"] if found else None
        counts = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        batch |= {"status": "expired" if expires else "completed", "request_counts": counts}

    def _status(self, key: str) -> int:
        pick = int(key[:8], 16) / 2**32
        for status, share in self.errors.items():
            pick -= share
            if pick < 0:
                first = key not in self._failed
                self._failed.add(key)
                return status if status != 500 or first else 200
        return 200

    def _line(self, line: dict[str, Any], response: Any, error: Any = None) -> bytes:
        given = {"id": "x", "custom_id": line["custom_id"], "response": response, "error": error}
        return json.dumps(given).encode()

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        found = [self._now(batch) for batch in reversed(self.batches.values())]
        if "after" in query:
            ids = [batch["id"] for batch in found]
            found = found[ids.index(query["after"][0]) + 1 :]
        size = min(int(query.get("limit", ["20"])[0]), 3)  # small pages
        page = found[:size]
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return {"object": "list", "data": page, "has_more": len(found) > size, **ends}
