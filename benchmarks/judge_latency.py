"""What a slow judge that often fails adds to a step: seconds, beside the bound that questions and retries set.

    python benchmarks/judge_latency.py --latency 1 --failures 0.2 --rollouts 512 --concurrency 32

A local server answers in threads; each request takes `--latency` seconds, and a share `--failures` ends in 503.
The bound is what the requests that were sent take if `--concurrency` of them are always under way: the first
`rollouts / concurrency` latencies are those of the questions, the others those of the retries, and the client's pauses
before retries come on top. No test passes or fails by these numbers; `tests/rewards/test_judge.py` counts requests.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import torch

from mmhicra.config import RewardConfig
from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.rewards.reward import Rewarder
from mmhicra.vlm.patch_grid import PatchGridInputs


class SlowServer(ThreadingHTTPServer):
    """Answers 1 after a while, or fails: every `1 / failures`-th request, counted in the order of arrival."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, latency: float, failures: float) -> None:
        super().__init__(("127.0.0.1", 0), SlowHandler)
        self.latency, self.failures = latency, failures
        self.requests = 0
        self.lock = threading.Lock()

    def fails(self) -> bool:
        """Whether the request that came just now is to fail."""
        with self.lock:
            self.requests += 1
            return int(self.requests * self.failures) > int((self.requests - 1) * self.failures)


class SlowHandler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Wait, then answer as an OpenAI-compatible server does."""
        self.rfile.read(int(self.headers["content-length"]))
        server = cast(SlowServer, self.server)
        failed = server.fails()
        time.sleep(server.latency)
        message = {"role": "assistant", "content": "1"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        data = json.dumps({"error": {"message": "busy"}} if failed else reply).encode()
        self.send_response(503 if failed else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def make_groups(rollouts: int, size: int = 8) -> list[Group]:
    """Groups of distinct responses."""
    row = torch.zeros(1, dtype=torch.int64)
    groups = []
    for start in range(0, rollouts, size):
        problem = Problem(f"p{start}", "?", (), "1", "text")
        texts = [f"response {number}" for number in range(start, min(rollouts, start + size))]
        prompt = Prompt(problem, [0], row, row.bool(), PatchGridInputs(positions=row.expand(3, -1)))
        groups.append(Group(prompt, [Completion([0], [0.0], "stop", text) for text in texts]))
    return groups


def measure(latency: float, failures: float, rollouts: int, concurrency: int) -> dict[str, float]:
    """Seconds that scoring took, what was asked, and the bound."""
    server = SlowServer(latency, failures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        prompt = Path(folder) / "prompt.txt"
        prompt.write_text("{response}")
        judge = {"name": "slow", "url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "retries": 20}
        judge |= {"prompt": str(prompt), "concurrency": concurrency}
        settings = RewardConfig.model_validate({"accuracy_weight": 0.0, "judges": [judge]})
        with Rewarder(settings, 8, Path(folder) / "replies") as rewarder:
            rewarder.begin_step(1)
            groups, began = make_groups(rollouts), time.perf_counter()
            rewarder.score(groups)
            seconds = time.perf_counter() - began
            counts = rewarder.take_counts()["slow"]
    server.shutdown()
    assert all(reward == 1.0 for group in groups for reward in group.rewards())
    return {
        "seconds": seconds,
        "requests": counts["requests"],
        "retries": counts["retries"],
        "bound_of_questions": latency * rollouts / concurrency,
        "bound_with_retries": latency * (counts["requests"] + counts["retries"]) / concurrency,
    }


def main() -> None:
    """Measure once and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of a request")
    parser.add_argument("--failures", type=float, default=0.2, help="share of the requests that fail")
    parser.add_argument("--rollouts", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=32)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
