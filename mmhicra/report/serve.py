"""`mmhicra report RUN --serve`: the page over HTTP on this machine, written anew when the run went on."""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mmhicra.core.errors import UserError
from mmhicra.report.page import write_report
from mmhicra.report.rollouts import RolloutPage

LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""What this machine calls itself."""
LOOK_EVERY = 2.0
"""Seconds between two readings of the run folder."""


class Follower:
    """Keeps a page up to date with its runs."""

    def __init__(self, paths: Sequence[Path], out: Path) -> None:
        self.paths, self.out = paths, out
        self.stamp = ""
        self.rollouts = RolloutPage()
        self.lock = threading.Lock()

    def refresh(self) -> str:
        """Write the page if a run has moved; returns the stamp of what it shows."""
        with self.lock:
            now = stamp(self.paths)
            if now != self.stamp:
                write_report(self.paths, self.out, read=self.rollouts)
                self.stamp = now
            return now


def stamp(paths: Sequence[Path]) -> str:
    """What changes when a run moves on: time and size of its metrics and its summary."""
    files = [path / name for path in paths for name in ("metrics.jsonl", "summary.json", "errors.jsonl")]
    return "-".join(f"{s.st_mtime_ns}.{s.st_size}" for s in (file.stat() for file in files if file.is_file()))


BROKEN = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>mmhicra report</title></head><body><p>The page cannot be written: {reason}</p></body></html>
"""
"""Instead of the page; the browser asks again after five seconds."""


class Server(ThreadingHTTPServer):
    """Says nothing of a browser that closes a page while it is sent."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called where an error has arisen."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def make_server(follower: Follower, port: int, allowed: Sequence[str] = ()) -> ThreadingHTTPServer:
    """A server of `/` (the page) and `/stamp`, on this machine only, to those who know it by its own name.

    A page of the web could else name this machine by a host name of its own (DNS rebinding) and read the report.

    Args:
        follower: writes the page.
        port: to listen at; 0 takes a free one.
        allowed: what else the Host header of a request may say, e.g. `localhost:9000` behind a tunnel.

    Raises:
        UserError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get_all("Host") or []
            if len(asked) != 1 or asked[0].lower() not in hosts:
                self.send_error(403, "Host not allowed", "Ask by 127.0.0.1 or localhost, or start with --allow-host")
                return
            if self.path.partition("?")[0] not in ("/", "/stamp"):
                self.send_error(404)
                return
            page, status = self.path.partition("?")[0] == "/", 200
            try:
                now = follower.refresh()
                body = follower.out.read_bytes() if page else now.encode()
            except (UserError, OSError) as error:
                body, status = BROKEN.format(reason=html.escape(str(error))).encode(), 503
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if page or status != 200 else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--port {port}: cannot listen ({reason}): choose another") from None
    own = server.server_address[1]
    hosts = {host.lower() for host in allowed}
    hosts |= {f"{name}{end}" for name in LOCAL for end in ([f":{own}", ""] if own == 80 else [f":{own}"])}
    return server


def serve(paths: Sequence[Path], out: Path, port: int, say: Callable[[str], None], allowed: Sequence[str] = ()) -> None:
    """Serve until Ctrl-C. Arguments as in `make_server`; `say` is told the address."""
    follower = Follower(paths, out)
    follower.refresh()
    with make_server(follower, port, allowed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        say(f"http://127.0.0.1:{server.server_address[1]}/ follows {', '.join(map(str, paths))}; Ctrl-C ends it")
        try:
            while True:
                time.sleep(LOOK_EVERY)
        except KeyboardInterrupt:
            server.shutdown()
