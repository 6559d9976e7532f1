"""`mmhicra report RUN --serve`: the page over HTTP on this machine, written anew when the run went on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mmhicra.refusals import Refusal
from mmhicra.report.page import write_report

LOOK_EVERY = 2.0
"""Seconds between looks at the run folder."""


class Follower:
    """Keeps a page up to date with its runs."""

    def __init__(self, paths: Sequence[Path], out: Path) -> None:
        self.paths, self.out = paths, out
        self.stamp = ""
        self.lock = threading.Lock()

    def refresh(self) -> str:
        """Write the page if a run has moved; returns the stamp of what it shows."""
        with self.lock:
            now = stamp(self.paths)
            if now != self.stamp:
                write_report(self.paths, self.out)
                self.stamp = now
            return now


def stamp(paths: Sequence[Path]) -> str:
    """What changes when a run moves on: time and size of its metrics and its summary."""
    files = [path / name for path in paths for name in ("metrics.jsonl", "summary.json", "errors.jsonl")]
    return "-".join(f"{s.st_mtime_ns}.{s.st_size}" for s in (file.stat() for file in files if file.is_file()))


def make_server(follower: Follower, port: int) -> ThreadingHTTPServer:
    """A server of `/` (the page) and `/stamp`, on this machine only.

    Raises:
        Refusal: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/stamp"):
                self.send_error(404)
                return
            now = follower.refresh()
            page = self.path.partition("?")[0] == "/"
            body = follower.out.read_bytes() if page else now.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8" if page else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise Refusal(f"--port {port}: cannot listen ({error.strerror}): choose another") from None


def serve(paths: Sequence[Path], out: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C."""
    follower = Follower(paths, out)
    follower.refresh()
    with make_server(follower, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        say(f"http://127.0.0.1:{server.server_address[1]}/ follows {', '.join(map(str, paths))}; Ctrl-C ends it")
        try:
            while True:
                time.sleep(LOOK_EVERY)
        except KeyboardInterrupt:
            server.shutdown()
