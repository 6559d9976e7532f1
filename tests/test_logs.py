"""The log files: what is in them, what stays off the terminal, and that logging ends nothing."""

import enum
import io
import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest
from rich.console import Console

from mmhicra.core import logs
from mmhicra.core.errors import UserError
from mmhicra.core.logs import RESULT, logged, note
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.terminal import Terminal

NO_SPACE = "No space left on device"


@pytest.fixture
def terminal():
    return Terminal(Console(file=io.StringIO(), width=60))


def lines(path):
    """Level, logger and message of each line of a log file."""
    return [tuple(line.split(maxsplit=4)[2:]) for line in path.read_text("utf-8").splitlines()]


def test_a_line_is_on_the_terminal_and_in_the_file_with_what_came_before_it_was_opened(terminal, tmp_path):
    path, long = tmp_path / "logs" / "rank_0.log", "[b]" + "long " * 30
    with logged(terminal.handler, to_file=True) as file:
        terminal.say("before")
        assert file.open(path) is None
        terminal.say(long)
        logging.getLogger("mmhicra.train.somewhere").warning("of %s", "a module")
        note(logging.DEBUG, "in the file alone")
    terminal.say("after")
    assert terminal.console.file.getvalue().splitlines() == ["before", long, "of a module", "after"]
    assert lines(path) == [
        ("INFO", "mmhicra:", "before"),
        ("INFO", "mmhicra:", long),
        ("WARNING", "mmhicra.train.somewhere:", "of a module"),
        ("DEBUG", "mmhicra:", "in the file alone"),
    ]


def test_a_line_names_the_module_that_said_it(terminal, tmp_path):
    with logged(terminal.handler, to_file=True) as file:
        file.open(tmp_path / "log")
        terminal.show_places([("library", "there")])
    assert lines(tmp_path / "log") == [("RESULT", "mmhicra.train.loop.terminal:", "library  there")]


LEVELS = {
    logging.DEBUG: ["details", "a line", "warning: w", "a result", "library: warned", "library: failed"],
    logging.INFO: ["a line", "warning: w", "a result", "library: failed"],
    RESULT: ["warning: w", "a result", "library: failed"],
}


@pytest.mark.parametrize("level", LEVELS)
def test_verbose_and_quiet(tmp_path, level):
    from mmhicra.commands.options import libraries_level

    terminal = Terminal(Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60), level=level)
    with logged(terminal.handler, to_file=True, libraries=libraries_level(level, to_file=True)) as file:
        file.open(tmp_path / "log")
        with terminal.watch("a bar", 3) as bar:
            assert terminal.bars.disable == (level > logging.INFO)
            terminal.advance(bar, 1)
        shown = len(terminal.console.file.getvalue())
        logging.getLogger("mmhicra.module").debug("details")
        terminal.say("a line")
        terminal.say("warning: w")
        terminal.conclude("a result")
        logging.getLogger("library").warning("warned")
        logging.getLogger("library").error("failed")
    assert terminal.console.file.getvalue()[shown:].splitlines() == LEVELS[level]
    assert len(lines(tmp_path / "log")) == 6


def test_warnings_of_libraries_are_in_the_file_and_their_own_handlers_are_back_afterwards(terminal, tmp_path, capsys):
    printed, library = io.StringIO(), logging.getLogger("transformers")
    own, propagate = logging.StreamHandler(printed), library.propagate
    library.addHandler(own)
    library.propagate = False
    try:
        with logged(terminal.handler, to_file=True, libraries=logging.ERROR) as file:
            file.open(tmp_path / "log")
            logging.getLogger("transformers.models").warning("slow %d", 1)
            warnings.warn("old", FutureWarning, stacklevel=1)
        assert (terminal.console.file.getvalue(), printed.getvalue(), *capsys.readouterr()) == ("", "", "", "")
        text = (tmp_path / "log").read_text()
        assert "WARNING  transformers.models: slow 1\n" in text
        assert "FutureWarning: old" in text
        logging.getLogger("transformers.models").warning("as ever")
        assert printed.getvalue() == "as ever\n"
    finally:
        library.removeHandler(own)
        library.propagate = propagate


def test_a_message_that_cannot_be_formatted_ends_nothing(terminal, tmp_path):
    with logged(terminal.handler, to_file=True) as file:
        file.open(tmp_path / "log")
        logging.getLogger("mmhicra.module").warning("wrong %d", "argument")
    assert "a message that cannot be formatted (TypeError)" in (tmp_path / "log").read_text()


def test_without_a_log_file_warnings_of_libraries_are_shown_but_never_among_json(terminal, capsys):
    with logged(terminal.handler):
        logging.getLogger("library").warning("slow")
    assert terminal.console.file.getvalue() == "library: slow\n"
    with logged(Terminal(quiet=True).handler):
        logging.getLogger("library").warning("slow")
    assert capsys.readouterr() == ("", "library: slow\n")


def test_logging_is_as_it_was_afterwards(terminal):
    def state():
        loggers = (logs.PACKAGE, logging.getLogger())
        return [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers], threading.excepthook

    before = state()
    with logged(terminal.handler, to_file=True) as outer, logged(terminal.handler) as inner:
        assert inner is outer
    assert state() == before
    assert logs.log_file() is None


def test_a_traceback_of_any_process_is_kept_even_if_it_comes_before_the_file(tmp_path):
    rank_1 = Terminal(quiet=True)
    path = tmp_path / "logs" / "rank_1.log"

    def fail():
        with logged(rank_1.handler, to_file=True) as file:
            rank_1.say("begun")
            file.candidate = path
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    text = path.read_text()
    assert "INFO     mmhicra: begun\n" in text
    assert "CRITICAL mmhicra.core.logs: ended by ZeroDivisionError, which is a fault of the program\nTraceback" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")


class Ended(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (UserError("mend it"), "ERROR", "mend it"),
        (KeyboardInterrupt(), "INFO", "stopped by KeyboardInterrupt"),
        (Ended("saved"), "INFO", "stopped: saved"),
    ],
)
def test_an_ending_that_is_foreseen_is_one_line(terminal, tmp_path, error, level, said):
    def end(opened):
        with logged(terminal.handler, to_file=True, expected=(Ended,)) as file:
            file.candidate = tmp_path / "candidate"
            if opened:
                file.open(tmp_path / "log")
            raise error

    with pytest.raises(type(error)):
        end(opened=True)
    assert lines(tmp_path / "log")[0] == (level, "mmhicra.core.logs:", said)
    with pytest.raises(type(error)):
        end(opened=False)
    assert not (tmp_path / "candidate").exists()
    assert terminal.console.file.getvalue() == ""  # the command prints it


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_that_ends_a_thread_is_in_the_file(terminal, tmp_path):
    with logged(terminal.handler, to_file=True) as file:
        file.open(tmp_path / "log")
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
    assert "the thread worker ended by an exception\nTraceback" in (tmp_path / "log").read_text()


def test_a_crash_in_c_leaves_its_traceback(tmp_path):
    program = (
        "import ctypes, logging\nfrom pathlib import Path\nfrom mmhicra.core.logs import logged\n"
        f"with logged(logging.NullHandler(), to_file=True) as file:\n    file.open(Path({str(tmp_path / 'log')!r}))\n"
        "    ctypes.string_at(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode < 0
    text = (tmp_path / "log").read_text()
    assert "Fatal Python error: Segmentation fault" in text
    assert "string_at" in text


def test_a_resumed_run_appends_behind_a_line_that_a_kill_cut_off(terminal, tmp_path):
    path = tmp_path / "log"
    path.write_text("whole\nhal")
    with logged(terminal.handler, to_file=True) as file:
        file.open(path)
        terminal.say("resumed")
    assert path.read_text().splitlines()[:2] == ["whole", "hal"]
    assert lines(path)[2:] == [("INFO", "mmhicra:", "resumed")]


def test_a_full_disk_ends_nothing_and_what_is_missing_is_counted(terminal, tmp_path, monkeypatch):
    write, free = os.write, [True]

    def full(descriptor, data):
        if not free[0]:
            free[0] = None if free[0] is False and len(data) > 20 else free[0]
            if free[0] is None:  # half of the first line still fits
                free[0] = 0
                return write(descriptor, data[:20])
            raise OSError(28, NO_SPACE)
        return write(descriptor, data)

    with logged(terminal.handler, to_file=True) as file:
        file.open(tmp_path / "log")
        monkeypatch.setattr(os, "write", full)
        terminal.say("first")
        free[0] = False
        terminal.say("second, which is cut off")
        terminal.say("third")
        free[0] = True
        terminal.say("fourth")
        free[0] = 0
        terminal.say("fifth")
    first, torn, missing, fourth = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("first")
    assert len(torn) == 20
    assert missing == f"2 lines are missing here: {NO_SPACE}"
    assert fourth.endswith("fourth")
    assert terminal.console.file.getvalue().splitlines()[-1] == (
        f"warning: 1 lines could not be written to {tmp_path / 'log'}"
    )


def test_a_file_that_cannot_be_opened_is_said(terminal, tmp_path):
    (tmp_path / "logs").write_text("a file of somebody's")
    with logged(terminal.handler, to_file=True) as file:
        assert file.open(tmp_path / "logs" / "rank_0.log") == "File exists"
        terminal.say("goes on")
    assert terminal.console.file.getvalue() == "goes on\n"


def test_log_files_are_moved_aside_with_their_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.make()
    folder.config.write_text("seed: 0\n")
    folder.log(1).parent.mkdir(parents=True)
    folder.log(1).write_text("of the old run\n")
    aside = folder.set_aside()
    assert RunFolder(aside).log(1).read_text() == "of the old run\n"
    assert not folder.logs.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old", "run.old.logs"]


@pytest.mark.filterwarnings("ignore:.*is already registered as pytree node")
def test_torchao_is_imported_without_a_word(caplog):
    """What torch says of two of its enums is left out, what it says of others is not."""
    pytest.importorskip("torchao", reason="needs torchao")
    from torch.utils import _pytree
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.quantization.quantize_.common import KernelPreference

    other = enum.Enum("Other", "one", type=str)
    logs.drop_import_warnings()
    for kind in (KernelPreference, ScaleCalculationMode, other):
        _pytree.register_constant(kind)
    assert [record.args for record in caplog.records if "Enum subclass" in record.message] == [(other,)]
