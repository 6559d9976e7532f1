from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mmhicra.core.errors import UserError
from mmhicra.rewards.verify import Outcome, Query
from mmhicra.rewards.workers import Verifier

pytestmark = pytest.mark.slow


def sine(answer: int, gold: int) -> Query:
    """Equal if the numbers are, and no exact reader decides it: it goes to a worker."""
    return Query(f"\\sin 2x + {answer}", f"2\\sin x \\cos x + {gold}")


EQUAL = sine(1, 1)
RIGHT = Outcome("right", "equal as mathematics")
GOLD = r"\int_0^1 x^2 dx"  # holds an integral, so that answers with one are worked out
HANGS = r"\int_0^\infty \frac{\sin x^x}{x}dx"
ROOT = Path(__file__).resolve().parents[2]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def processes(verifier: Verifier) -> set[int]:
    return {worker.process.pid for worker in verifier._alive}


def test_what_hangs_is_killed_and_the_rest_goes_on():
    with Verifier(workers=2, time_limit=1) as verifier:
        queries = [
            Query(HANGS, GOLD),
            EQUAL,
            Query("5", HANGS),
            sine(2, 2),
            Query("6", HANGS),
            sine(3, 3),
        ]
        too_slow = Outcome("wrong", "the answer exceeded 1 s of verification")
        slow_gold = Outcome("wrong", "only its own writing equals this gold, which exceeded 1 s of verification")
        assert verifier.verify_all(queries) == [too_slow, RIGHT, slow_gold, RIGHT, slow_gold, RIGHT]
        assert 1 <= len(processes(verifier)) <= 2
        pids = processes(verifier)
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("gold", [r"\Gamma(10^8)", r"\binom{1000000}{500000}", r"(10!)! + x"])
def test_a_gold_too_costly_to_work_out_makes_no_answer_unusable(gold):
    with Verifier(workers=1, time_limit=1) as verifier:
        own, *others = verifier.verify_all([Query(gold, gold), Query("7", gold), Query("x + 1", gold)])
        assert own.verdict == "right"
        assert {outcome.verdict for outcome in others} == {"wrong"}
        verifier.time_limit = 3600  # what was found out about a gold is not found out again
        assert verifier.verify_all([Query("y", gold)])[0].verdict == "wrong"


def test_memory_is_bounded():
    with Verifier(workers=1, time_limit=20) as verifier:
        outcome = verifier.verify_all([Query(r"\gcd(3^{10 \cdot 10^9}, 6)", r"\gcd(4, 6)"), EQUAL])
        assert [each.verdict for each in outcome] == ["wrong", "right"]


def test_the_order_is_kept_and_repeats_are_decided_once(verifier):
    queries = [sine(n, n % 3) for n in range(9)] * 3 + [Query("5", "5", "number")]
    expected = [RIGHT if n < 3 else Outcome("wrong", "not equal as mathematics") for n in range(9)] * 3
    assert verifier.verify_all(queries) == [*expected, Outcome("right", "equal as numbers")]
    assert verifier.verify_all([]) == []


def test_easy_queries_start_no_process():
    with Verifier(workers=2) as verifier:
        easy = [Query("5", "5"), Query("B", "B", "choice"), Query("x", "x", "text"), Query("1/2", "0.5", "number")]
        assert {outcome.verdict for outcome in verifier.verify_all(easy)} == {"right"}
        assert not processes(verifier)


def test_without_workers_algebra_is_refused():
    verifier = Verifier(workers=0)
    assert verifier.verify_all([Query("5", "5")])[0].verdict == "right"
    with pytest.raises(UserError, match=r"cos x \+ 1'.*set workers to 1 or more"):
        verifier.verify_all([EQUAL])


def test_works_off_the_main_thread(verifier):
    outcomes: list[list[Outcome]] = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(verifier.verify_all([EQUAL, sine(n + 5, n + 5)])))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[RIGHT, RIGHT]] * 6


def kill_while(verifier: Verifier, stage: str) -> None:
    """Kill the one worker, kill -9, when it is at `stage`."""
    assert wait_until(
        lambda: any(worker.stage == stage and worker.process.poll() is None for worker in verifier._alive)
    )
    (worker,) = verifier._alive
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


@pytest.fixture
def in_thread():
    def start(verifier: Verifier, *queries: Query) -> tuple[threading.Thread, list[Outcome | UserError]]:
        found: list[Outcome | UserError] = []

        def run() -> None:
            try:
                found.extend(verifier.verify_all(queries))
            except UserError as refusal:
                found.append(refusal)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, found

    return start


def test_a_killed_worker_is_no_verdict_but_two_over_one_answer_are(in_thread):
    """As the kernel does it when memory is short: the answer is judged by a fresh worker."""
    with Verifier(workers=1, time_limit=60) as verifier:
        thread, found = in_thread(verifier, Query(HANGS, GOLD), EQUAL)
        kill_while(verifier, "answer")
        kill_while(verifier, "answer")
        thread.join()
        why = "the answer crashed the verifier 2 times, the last time by signal SIGKILL (out of memory?)"
        assert found == [Outcome("wrong", why), RIGHT]
        assert verifier.lost == 2
        (idle,) = processes(verifier)
        os.kill(idle, signal.SIGKILL)
        assert wait_until(lambda: not is_running(idle))
        assert verifier.verify_all([EQUAL]) == [RIGHT]
        assert verifier.lost == 3


def test_all_workers_killed_in_the_midst_of_a_batch_change_no_verdict(in_thread):
    queries = [sine(n % 7, n) for n in range(60)]
    expected = [RIGHT if n < 7 else Outcome("wrong", "not equal as mathematics") for n in range(60)]
    with Verifier(workers=2, time_limit=60) as verifier:
        thread, found = in_thread(verifier, *queries)
        for _ in range(2):
            assert wait_until(lambda: len({w for w in verifier._alive if w.stage in ("gold", "answer")}) == 2)
            for worker in list(verifier._alive):
                os.kill(worker.process.pid, signal.SIGKILL)
        thread.join()
        assert found == expected
        assert verifier.lost >= 2


def test_a_worker_killed_while_it_starts_is_started_again_and_in_the_end_refused(in_thread):
    with Verifier(workers=1, time_limit=60) as verifier:
        thread, found = in_thread(verifier, EQUAL)
        kill_while(verifier, "starting")
        thread.join()
        assert found == [RIGHT]
    with Verifier(workers=1, time_limit=60) as verifier:
        thread, found = in_thread(verifier, EQUAL)
        for _ in range(3):
            kill_while(verifier, "starting")
        thread.join()
        (refusal,) = found
        assert isinstance(refusal, UserError)
        assert "end before they are ready, the last by signal SIGKILL (out of memory?)" in str(refusal)
        assert "\n" not in str(refusal)
        assert verifier.verify_all([EQUAL]) == [RIGHT]


def test_gold_and_answer_have_a_full_limit_each():
    """Nine tenths of the limit for the gold and as much for the answer, in processor seconds of a real worker."""
    program = """
        import sys, threading, time
        from multiprocessing.connection import Pipe
        from mmhicra.rewards import workers
        from mmhicra.rewards.verify import Outcome, Query

        def spin(seconds):
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass

        def verify(extracted, gold, kind, choices, at_answer, question):
            spin(0.9)
            at_answer()
            spin(0.9)
            return Outcome("right", "in time")

        workers.verify = verify
        ours, theirs = Pipe()
        ours.send(Query("1", "1"))
        said = lambda: print(ours.recv(), ours.recv(), ours.recv().why, flush=True) or ours.close()
        threading.Thread(target=said).start()
        workers.serve(theirs.fileno(), 1.0)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "gold answer in time\n")


def test_ctrl_c_does_not_reach_the_workers(verifier):
    assert verifier.verify_all([EQUAL]) == [RIGHT]
    before = processes(verifier)
    for pid in before:
        os.kill(pid, signal.SIGINT)
        assert os.getpgid(pid) != os.getpgid(0)
    assert verifier.verify_all([sine(4, 4)]) == [RIGHT]
    assert before <= processes(verifier)


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_any_main_program_will_do_and_no_process_outlives_it(end):
    """No `if __name__ == "__main__"`, no file even, and the verifier is never closed."""
    program = f"""
        import os, signal
        from mmhicra.rewards.verify import Query
        from mmhicra.rewards.workers import Verifier
        verifier = Verifier(workers=1, time_limit=30)
        print(verifier.verify_all([Query("\\\\sin 2x", "2\\\\sin x \\\\cos x")])[0].verdict, flush=True)
        print(*(worker.process.pid for worker in verifier._alive), flush=True)
        {end}
    """
    done = subprocess.run(
        [sys.executable, "-"], input=textwrap.dedent(program), capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    verdict, pid = done.stdout.split()
    assert verdict == "right"
    assert wait_until(lambda: not is_running(int(pid)), 20)


def test_importing_the_room_imports_neither_torch_nor_sympy():
    program = """
        import sys
        import mmhicra.rewards.golds, mmhicra.rewards.reward, mmhicra.rewards.verify, mmhicra.rewards.workers
        print(sorted({"torch", "transformers", "numpy", "sympy"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
