"""Damaged run folders give a page that says so; the other commands say it in a line. Nothing is a traceback."""

import http.client
import json
import random
import socket
import struct
import threading

import pytest
from report.made_runs import record, write_run

from mmhicra.cli import main
from mmhicra.data.refused import RefusedRow, write_refused
from mmhicra.report.folder import read_run
from mmhicra.report.page import page_data, render
from mmhicra.report.serve import Follower, make_server

SUMMARY = {
    "held_out": {"before": {"mean": 0.1, "low": 0.0, "high": 0.2}, "after": None, "change": None},
    "problems": {"train": 7}, "parameters": {"total": 9, "trained": 3}, "wall_seconds": 3.5, "alpha": 0.2,
    "seconds_by_phase": {"rollout": 2.0}, "versions": {"torch": "2"}, "advice": ["nothing was trained"],
}  # fmt: skip
STEPS = [{"step": step, "accuracy/mean": 0.5, "time/step": 1.0, "memory/step_gib": 1.0} for step in (1, 2)]
JUDGED = {"step": 1, "prompt": "made", "completion": 0, "kind": "planning", "why": "because"}


def whole_run(folder):
    run = write_run(folder, STEPS, {step: [record(step, i, "some text", "wrong") for i in (0, 1)] for step in (1, 2)})
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "errors.jsonl").write_text(json.dumps(JUDGED) + "\n")
    write_refused(run / "refused.jsonl", [RefusedRow("set.jsonl", 1, "p", "too long: 7", "Why?")])
    return run


def page_of(run):
    data = page_data([read_run(run)], lambda *_: None)
    assert "<html" in render(data)
    return data, " ".join(data["missing"])


FILES = ["config.yaml", "metrics.jsonl", "summary.json", "refused.jsonl", "errors.jsonl", "rollouts/step_000001.jsonl"]
CONTENT = {
    "no UTF-8": b'{"step": 1, "x": "\xff\xfe"}\n{"step": 1}\n',
    "half": b'{"step": 1, "seed": {"a"',
    "a list": b"[]\n[]\n",
    "deep": b"[" * 100_000 + b"\n{}\n",
    "a long integer": b'{"step": ' + b"9" * 5000 + b"}\n{}\n",
    "NULs": b"\0" * 1000 + b"\n\n\n{",
    "other keys": b'{"a": 1}\n{"b": 2}\n',
    "other types": b'{"step": "x", "kind": [1], "held_out": 7, "source": {}}\n{}\n',
}


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_left_out_and_named(file, tmp_path):
    for number, (kind, content) in enumerate(CONTENT.items()):
        run = whole_run(tmp_path / str(number))
        (run / file).write_bytes(content)
        _, said = page_of(run)
        if (file, kind) not in {
            ("summary.json", "other keys"),
            ("config.yaml", "other keys"),
            ("config.yaml", "other types"),
        }:
            assert file.rpartition("/")[2] in said, kind
        assert len(said) < 1500, kind


def test_a_directory_in_the_place_of_a_file(tmp_path):
    run = whole_run(tmp_path / "run")
    for file in ("summary.json", "refused.jsonl", "errors.jsonl", "rollouts/step_000001.jsonl"):
        (run / file).unlink()
        (run / file).mkdir()
    page_of(run)


def test_what_is_whole_stays_on_the_page(tmp_path):
    run = whole_run(tmp_path / "run")
    data, said = page_of(run)
    assert "damaged" not in said
    with (run / "rollouts/step_000001.jsonl").open("a") as file:
        file.write("\n{}\n" + json.dumps(record(1, 2, "more text", "wrong")) + "\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time/step": "long", "accuracy/mean": [1], "memory/step_gib": NaN}\n{"ste')
    (run / "rollouts/step_old.jsonl").write_text("x")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"held_out": {"before": {"mean": "x"}}, "alpha": [1]}))
    after, said = page_of(run)
    assert after["audit"]["count"] == data["audit"]["count"] + 1
    assert "A line of step_000001.jsonl is damaged and left out (line 4: no step)." in said
    assert "The last line of metrics.jsonl was cut off" in said
    assert "summary.json is damaged in alpha, held_out, which is left out." in said
    assert after["summary"].keys() == SUMMARY.keys() - {"held_out", "alpha"}
    assert after["runs"][0]["metrics"]["step"] == [1, 2, 3]
    assert after["refused"] == data["refused"]


ODD = [None, 7, -1, 1e300, float("nan"), float("inf"), "x", "\ud800", [], {}, [7], [[1]], {"a": 1}, True, 10**20]


def test_odd_values_anywhere(tmp_path):
    """Each field of each file in turn holds something else: a page, and errors and mine in a line."""
    rng = random.Random(0)
    run = whole_run(tmp_path / "run")
    contents = {file: (run / file).read_text() for file in FILES[1:]}
    for file, text in contents.items():
        first, *rest = text.splitlines()
        tree = json.loads(first)
        places = [(name,) for name in tree]
        places += [(name, inner) for name, part in tree.items() if isinstance(part, dict) for inner in part]
        places += [(name, 0) for name, part in tree.items() if isinstance(part, list) and part]
        for place in places:
            for value in rng.sample(ODD, 5):
                changed = json.loads(first)
                target = changed if len(place) == 1 else changed[place[0]]
                target[place[-1]] = value
                (run / file).write_text("\n".join([json.dumps(changed), *rest]) + "\n")
                page_of(run)
        (run / file).write_text(text)


def test_the_other_commands_name_the_damage(tmp_path, capsys):
    for number, content in enumerate(CONTENT.values()):
        run = whole_run(tmp_path / str(number))
        (run / "rollouts/step_000001.jsonl").write_bytes(content)
        for command in (["errors", str(run)], ["mine", str(run), "--out", str(tmp_path / "grams.json")]):
            assert main(command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "step_000001.jsonl" in line
            assert len(line) < 500
    result = tmp_path / "result.json"
    for content in CONTENT.values():
        result.write_bytes(content)
        assert main(["leaderboard", str(result), "--out", str(tmp_path / "board")]) == 2
        assert main(["eval", "score", "--compare", str(result), str(result)]) == 2
        assert all("result.json" in line or "samples" in line for line in capsys.readouterr().err.splitlines())


def ask(server, path, host):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_only_who_knows_the_machine_by_its_own_name_gets_the_page(tmp_path):
    run = whole_run(tmp_path / "run")
    with make_server(Follower([run], tmp_path / "page.html"), 0, ["my.tunnel:9000"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}", f"[::1]:{port}", "my.tunnel:9000"):
            assert ask(server, "/", host)[0] == 200
        for host in ("evil.example.com", f"evil.example.com:{port}", "localhost", f"127.0.0.1:{port + 1}", "", None,
                     f"localhost.evil.com:{port}", f"evil.com@localhost:{port}", "my.tunnel"):  # fmt: skip
            for path in ("/", "/stamp", "/nothing"):
                status, body = ask(server, path, host)
                assert status == 403
                assert "step" not in body
        good = f"Host: localhost:{port}\r\n"
        for head in (
            good + "Host: evil.com\r\n",
            "Host: evil.com\r\n" + good,
            good + good,
            f"Host : localhost:{port}\r\n",
        ):
            assert b" 200 " not in raw(port, f"GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\n").partition(b"\r\n")[0]
        for request in ("GET /\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "junk\r\n\r\n", "POST / HTTP/1.1\r\n\r\n"):
            assert b" 200 " not in raw(port, request)
        server.shutdown()


def test_a_browser_that_leaves_is_no_error(tmp_path, capsys):
    """The page is longer than what lies in the buffers of a connection."""
    run = whole_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**SUMMARY, "advice": ["x" * 1000] * 20_000}))
    with make_server(Follower([run], tmp_path / "page.html"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as browser:
                browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                browser.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                browser.recv(10)
        assert ask(server, "/stamp", f"localhost:{port}")[0] == 200
        server.shutdown()
    assert capsys.readouterr().err == ""


def raw(port, request):
    """What the server answers to any bytes."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request.encode())
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_page_that_cannot_be_written_says_so_to_the_browser(tmp_path):
    run = whole_run(tmp_path / "run")
    (tmp_path / "page.html").mkdir()
    with make_server(Follower([run], tmp_path / "page.html"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, body = ask(server, "/", f"localhost:{server.server_address[1]}")
        server.shutdown()
    assert status == 503
    assert "cannot write" in body
