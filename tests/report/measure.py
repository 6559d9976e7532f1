"""Time and memory of a page of 1 000 steps of 64 rollouts of 200 tokens: `python tests/report/measure.py [STEPS]`."""

import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from report.made_runs import record, write_run

from mmhicra.core.run_folder import RunFolder
from mmhicra.report.page import write_report

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
GROUPS, SIZE, TOKENS = 8, 8, 200


def step_records(step):
    """Eight groups of eight."""
    text = f"in step {step} we see a shape and count again, so ".ljust(TOKENS - 9, "x") + "\\boxed{7}"
    scored = {name: [-0.12345] * TOKENS for name in ("engine_logprobs", "old_logprobs", "entropy")}
    for group in range(GROUPS):
        for n in range(SIZE):
            yield record(step, n, text, "wrong" if n else "right", prompt=f"made/{step}/{group}", **scored)


def main():
    """Write the run, then measure the report."""
    with tempfile.TemporaryDirectory() as name:
        metrics = [{"step": s, **{f"metric/{i}": s / 7 for i in range(100)}} for s in range(1, STEPS + 1)]
        run = write_run(Path(name) / "run", metrics, {})
        for step in range(1, STEPS + 1):
            RunFolder(run).write_rollouts(step, step_records(step))
        size = sum(file.stat().st_size for file in run.glob("rollouts/*"))
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        write_report([run], run / "report.html")
        seconds, page = time.perf_counter() - started, (run / "report.html").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{STEPS * GROUPS * SIZE} rollouts, {size / 1e6:.0f} MB of files: {seconds:.1f} s")
    print(f"peak {peak / 2**20:.2f} GiB ({before / 2**20:.2f} before), page {page / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
