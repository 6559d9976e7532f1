"""Rollout files: compressed, one per step and rank, sampled and kept as configured; one order for all who read them."""

import itertools
import json
import random
from typing import cast

import pytest
import torch
from on_ranks import on_ranks
from report.made_runs import HOSTILE, record, write_run
from short_runs import short_config

from mmhicra.cli import main
from mmhicra.config.loading import load_config
from mmhicra.core import rollout_files
from mmhicra.core.compressed import zstd_frame
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.core.resources import asset_path
from mmhicra.core.rollout_files import rollout_frame, rollout_name, rollout_steps, run_notes
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.run_lines import JsonLines
from mmhicra.hicra.planning import PlanningTags
from mmhicra.hicra.telemetry import RolloutTelemetry
from mmhicra.mining.inspection import load_tokenizer
from mmhicra.mining.solutions import read_solutions
from mmhicra.report.folder import read_run
from mmhicra.report.page import page_data
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.loop.rollout_records import write_rollouts, written_groups
from mmhicra.train.step import Step

IDS = ["p/9", "p/10", "p/10/a", "é", "\ud800", "日", "🙂", "made/" + HOSTILE[0]]


def step_records(step, ids=IDS):
    """Two completions of every problem, every third of them dropped, in the order of a file."""
    made = [
        record(step, n, f"we see that {HOSTILE[n]} and so count again, {problem!r}", "wrong" if n else "right",
               prompt=problem, kept=place % 3 > 0)
        for place, problem in enumerate(ids) for n in (0, 1)
    ]  # fmt: skip
    return sorted(made, key=rollout_files.place)


def write_ranks(folder, ranks, steps):
    """The rollout files that `ranks` processes would have written, groups dealt out at random."""
    run = RunFolder(folder)
    run.make()
    for step in steps:
        run.append_metrics({"step": step, "accuracy/mean": 0.5})
    deal = random.Random(ranks)
    for step in steps:
        owner = {problem: deal.randrange(ranks) for problem in IDS}
        for rank in range(ranks):
            mine = [each for each in step_records(step) if owner[each["prompt"]] == rank]
            run.write_rollouts(step, mine, rank, ranks)
    return folder


def test_a_damaged_frame_is_never_silent(tmp_path):
    """Cut anywhere, or with any bit changed: what is read are lines of the whole one, and the damage is told."""
    records = [{"n": n, "text": f"line {n} of some"} for n in range(30)]
    data, path = rollout_frame(records), tmp_path / "a.jsonl.zst"
    assert data == rollout_frame(iter(records))
    for content in (data, data + zstd_frame(b""), rollout_frame(records[:7]) + rollout_frame(records[7:])):
        path.write_bytes(content)
        lines = JsonLines(path)
        assert (list(lines), lines.damage) == (records, None)
    spoilt = [data[:end] for end in range(len(data))]
    spoilt += [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at, bit in itertools.product(range(len(data)), (0, 5))
    ]
    told = 0
    for content in spoilt:
        path.write_bytes(content)
        lines = JsonLines(path)
        read = list(lines)
        assert lines.damage is not None or read == records  # a bit of the header may say nothing about the content
        assert lines.damage is None or not lines.damage.cut
        told += lines.damage is not None
    assert told >= len(spoilt) - 8


def test_the_order_does_not_depend_on_the_number_of_ranks_nor_do_page_mine_errors_and_rollouts(tmp_path, capsys):
    said = []
    for ranks in (1, 2, 5):
        folder = write_ranks(tmp_path / f"on{ranks}" / "run", ranks, [1, 2])
        names = sorted(path.name for path in (folder / "rollouts").iterdir())
        assert names[-1] == ("step_000002.jsonl.zst" if ranks == 1 else f"step_000002.rank_0{ranks - 1}.jsonl.zst")
        records = [list(files.lines()) for files in rollout_steps(folder / "rollouts")]
        assert records == [step_records(1), step_records(2)]
        assert main(["rollouts", str(folder), "--step", "2"]) == 0
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert printed == step_records(2)
        page = page_data([read_run(folder)], lambda *_: None)
        corpus = read_solutions([folder])
        assert sum(file["rows"] for file in corpus.files) == corpus.counts["read"] == 2 * len(records[0])
        said.append((page["groups"], page["audit"], page["grams"], corpus.texts, corpus.counts))
    assert said[0] == said[1] == said[2]
    old = write_run(
        tmp_path / "old" / "run", [{"step": 1, "accuracy/mean": 0.5}], {1: step_records(1), 2: step_records(2)}
    )
    page, corpus = page_data([read_run(old)], lambda *_: None), read_solutions([old])
    assert (page["groups"], page["audit"], page["grams"], corpus.texts, corpus.counts) == said[0]


def test_a_copy_that_somebody_unpacked_is_not_read_twice(tmp_path):
    folder = write_ranks(tmp_path / "run", 1, [1])
    (folder / "rollouts" / "step_000001.jsonl").write_bytes(b"".join(map(rollout_files.rollout_line, step_records(1))))
    (folder / "rollouts" / "step_000001.jsonl.zst.partial").write_bytes(b"half")
    (folder / "rollouts" / "step_1.jsonl.zst").write_bytes(b"mine")
    (files,) = rollout_steps(folder / "rollouts")
    assert [path.name for path in files.paths] == ["step_000001.jsonl.zst"]


def test_groups_are_drawn_by_seed_and_step_alone():
    ids = [f"p/{n}" for n in range(40)]
    drawn = written_groups(ids, 0.25, 7, 3)
    assert len(drawn) == 10
    assert drawn == written_groups(ids[::-1], 0.25, 7, 3)
    assert drawn <= written_groups(ids, 0.5, 7, 3)
    assert len({written_groups(ids, 0.25, seed, step) for seed in (0, 7) for step in (1, 3)}) == 4
    assert len(written_groups(ids, 0.001, 0, 1)) == 1
    times = [sum(each in written_groups(ids, 0.25, 0, step) for step in range(400)) for each in ids]
    assert 60 < min(times) <= max(times) < 140  # of 100 expected: every problem is drawn alike


def write_on_rank(accelerator, place, options):
    """Write the rollout files of three steps, with eight groups dealt out to the ranks; what was left out of each."""
    ranks, tokenizer = Ranks(accelerator), load_tokenizer(asset_path("tiny_vlm"))
    config, run = short_config(place, *options), RunFolder(place)
    with ranks.refusing_together():
        if ranks.is_main:
            run.make()
    left_out = []
    for step in (1, 2, 3):
        groups = [made_group(tokenizer, f"p/{n}", step) for n in range(8)]
        kept, dropped = ranks.share(groups[::-2]), ranks.share(groups[::2])
        taken = Step(step, True, False, cast(RolloutTelemetry, None), kept=kept, dropped=dropped)
        left_out.append(write_rollouts(run, config, taken, ranks, tokenizer))
    return left_out


def made_group(tokenizer, problem, step):
    """Two completions without grams."""
    completions = []
    for n in range(2):
        ids = tokenizer.encode(f"in step {step} we see {problem} {n}", add_special_tokens=False)
        none = torch.zeros(len(ids), dtype=torch.bool)
        tags = PlanningTags(none, none, [])
        completions.append(Completion(ids, [-0.5] * len(ids), "stop", "", planning=none, planning_tags=tags))
    nothing = torch.zeros(3, 1, dtype=torch.int64)
    prompt = Prompt(Problem(problem, "?", (), "1"), [1], torch.tensor([1]), nothing, torch.tensor([False]))
    return Group(prompt, completions)


def test_every_rank_writes_its_own_and_all_draw_the_same_groups(tmp_path):
    """On one, two and four ranks: the same records, of the same groups, in the same order; each file by its rank."""
    call, wanted = "train.test_rollout_files:write_on_rank", None
    options = ["log.rollouts_share=0.4", "log.rollouts_keep=2"]
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks) / "run"
        said = on_ranks(ranks, call, tmp_path / f"said{ranks}", place=str(folder), options=options)
        assert said == [[{"rollout/unwritten": 5.0}] * 3] * ranks
        steps = rollout_steps(folder / "rollouts")
        assert [[path.name for path in files.paths] for files in steps] == [
            [rollout_name(step, rank, ranks) for rank in range(ranks)] for step in (2, 3)
        ]
        found = [list(files.lines()) for files in steps]
        assert [len(records) for records in found] == [6, 6]
        assert found == (wanted := found if wanted is None else wanted)
        assert all(records == sorted(records, key=rollout_files.place) for records in found)
    assert {record["prompt"] for record in wanted[0]} != {record["prompt"] for record in wanted[1]}


def test_what_the_files_do_not_hold_is_said_by_all_who_read_them(tmp_path, capsys):
    folder = write_ranks(tmp_path / "run", 2, [1, 2, 3, 4])
    assert run_notes(folder) == []
    RunFolder(folder).prune_rollouts(2)
    line = {"group/kept": 9.0, "group/dropped": 3.0, "rollout/unwritten": 4.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step, **line}) + "\n" for step in (1, 2, 3, 4)))
    few = "Rollout files are there for 2 of 4 steps, from 3 to 4 (log.rollouts_every, log.rollouts_keep)."
    share = "Rollout files hold 16 of 24 groups of their steps, drawn at random (log.rollouts_share)."
    assert run_notes(folder) == [few, share]
    assert {few, share} <= set(page_data([read_run(folder)], lambda *_: None)["missing"])
    nobody = ["--judge", "http://127.0.0.1:9/v1", "--model", "m", "--retries", "0"]
    inspect = ["mine", "--inspect", "published_249", "--responses", str(folder), "--tokenizer", "tiny_vlm"]
    for command in (["errors", str(folder), *nobody], inspect, ["rollouts", str(folder)]):
        main(command)
        said = capsys.readouterr()
        printed = " ".join((said.out + said.err).split())
        assert few in printed, command
        assert share in printed, command


def test_sampling_without_files_is_refused():
    for option in ("log.rollouts_keep=3", "log.rollouts_share=0.5"):
        with pytest.raises(ConfigError, match=r"rollouts_(keep|share) is about rollout files, but rollouts_every is 0"):
            load_config(None, ["log.rollouts_every=0", option])
    with pytest.raises(ConfigError, match=r"log\.rollouts_share is 0"):
        load_config(None, ["log.rollouts_share=0"])
