"""What a person sees: bars that survive one another, and lines that say where the seconds went."""

import io

from rich.console import Console

from mmhicra.train.loop.terminal import Terminal, rate_text


def test_an_outer_bar_goes_on_after_an_inner_one():
    terminal = Terminal(Console(file=io.StringIO(), force_terminal=True, width=120))
    with terminal.watch("training", 10) as outer:
        with terminal.watch("evaluating", 4) as inner:
            terminal.advance(inner, 4)
        terminal.advance(outer, 7)
        assert terminal.bars is not None
        assert terminal.bars.tasks[0].completed == 7
    assert terminal.bars is None


def test_a_step_line_stands_under_its_headings():
    file = io.StringIO()
    record = {
        "step": 7, "accuracy/mean": 0.5, "reward/mean": 0.6, "response/length": 31.4, "group/kept": 5.0,
        "time/step": 2.0, "time/backward": 1.25, "time/rollout": 0.5, "time/reference": 0.12,
    }  # fmt: skip
    Terminal(Console(file=file, width=200)).show_step(record, steps=60)
    headings, line = file.getvalue().splitlines()
    assert len(headings) == len(line) <= 150
    words = (
        "step right reward tokens planning entropy kept seconds rollout reward credit reference "
        "forward backward optimizer sync"
    )
    assert " ".join(headings.split()) == words
    assert " ".join(line.split()) == "7/60 0.500 0.600 31 - - 5 2.00 0.50 - - 0.12 - 1.25 - -"


def test_masked_responses_are_counted_in_a_column_of_their_own():
    file = io.StringIO()
    record = {"step": 7, "group/kept": 5.0, "rollout/masked_truncated": 13.0, "time/step": 2.0}
    Terminal(Console(file=file, width=200)).show_step(record, steps=60)
    headings, line = (text.split() for text in file.getvalue().splitlines())
    assert line[headings.index("masked")] == "13"


def test_rates_read_well_fast_and_slow():
    assert rate_text(None) == ""
    assert rate_text(12.34) == "12.3/s"
    assert rate_text(0.25) == "4.0 s each"
