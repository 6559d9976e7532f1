"""The command line where its surroundings fail: outputs that nobody reads or that are full, a folder that is gone."""

import os
import sys

import pytest

from mmhicra.cli import main


@pytest.fixture
def printing_to(monkeypatch):
    """Makes a file or a descriptor the standard output."""
    opened = []

    def put(target):
        opened.append(open(target, "w", encoding="ascii"))  # noqa: SIM115 - closed below
        monkeypatch.setattr(sys, "stdout", opened[-1])

    yield put
    for file in opened:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), file.fileno())
        file.close()


def test_a_reader_that_has_ended(printing_to, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    printing_to(writer)
    assert main(["configs"]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_that_is_full(printing_to, capsys):
    printing_to("/dev/full")
    assert main(["leaderboard"]) == 2
    assert capsys.readouterr().err == (
        "mmhicra: cannot write what is printed: No space left on device; free the disk or choose another place\n"
    )


def test_an_output_that_knows_few_characters(printing_to, tmp_path):
    """The leaderboard has names and intervals that are no ASCII."""
    printing_to(tmp_path / "output")
    assert main(["leaderboard"]) == 0
    sys.stdout.flush()
    assert len((tmp_path / "output").read_text(encoding="ascii").splitlines()) > 5


def test_an_output_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["leaderboard"]) == 0


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["train", "--config", "tiny.yaml"]) == 2
    assert capsys.readouterr().err == "mmhicra: the working directory has been removed: change into another one\n"


def test_ctrl_c_while_the_command_is_read(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("mmhicra.cli.make_parser", interrupted)
    assert main(["leaderboard"]) == 130
    assert capsys.readouterr().err == "mmhicra: stopped\n"


def test_bench_hands_everything_to_the_benchmarks_of_the_checkout(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "logprob", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: mmhicra bench logprob [-h] [--tokens T]")
