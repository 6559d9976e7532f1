"""A real HTTP server that speaks the chat protocol of OpenAI-compatible endpoints, with scripted replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Scripted:
    """One reply; `wait` is called before it is sent."""

    text: str = ""
    status: int = 200
    tokens: tuple[int, int] | None = (100, 10)
    raw: str | None = None
    wait: Callable[[], object] = lambda: None
    headers: dict[str, str] = field(default_factory=lambda: {"retry-after-ms": "1"})

    def body(self) -> str:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.text or "no", "type": "scripted"}})
        message = {"role": "assistant", "content": self.text}
        reply: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        if self.tokens:
            prompt, completion = self.tokens
            reply["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return json.dumps(reply)


Script = Callable[[int, dict[str, Any]], Scripted] | Sequence[Scripted]
"""Number of the request (from 0) and its body -> the reply; or the replies in turn, the last for ever."""


class JudgeServer:
    """Serves in threads of its own; keeps every request body, and how many were under way at once."""

    def __init__(self, script: Script) -> None:
        self.script = script if callable(script) else lambda n, _: script[min(n, len(script) - 1)]
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append({**request, "path": handler.path, "key": handler.headers["authorization"]})
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        reply = self.script(number, request)
        reply.wait()
        data = reply.body().encode()
        with self._lock:
            self._now -= 1
        try:
            handler.send_response(reply.status)
            headers = {"content-type": "application/json", "content-length": str(len(data)), **reply.headers}
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up waiting, or was killed
