"""Credit methods of the user's own: found by their address, tried before a run, checked at every call."""

from typing import Any

import pytest
import torch

from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Completion, Group, Problem, Prompt, RewardRecord
from mmhicra.hicra.credit import METHODS, CreditOptions, TokenSignals, assign_credit
from mmhicra.hicra.own_method import MethodError, find_method, needs_entropy, try_method

OPTIONS = CreditOptions(alpha=0.2)
WRONG = {
    "arguments": ("def f(advantages, mask): return advantages", "cannot be called with three arguments"),
    "asynchronous": ("async def f(a, b, c): return a", "is an async function"),
    "raises": ("def f(a, b, c): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
    "nothing": ("def f(a, b, c): pass", r"returned a NoneType: it must return a tensor of the shape \(5,\)"),
    "number": ("def f(a, b, c): return a.sum()", r"returned a tensor of the shape \(\)"),
    "mask": ("def f(a, b, c): return b.planning", "type torch.bool: it must be"),
    "infinite": ("def f(a, b, c): return a / 0", "returned advantages that are not finite"),
    "in_place": ("def f(a, b, c):\n    a += 1\n    return a + 0", "changed its arguments"),
    "of_the_mask": ("def f(a, b, c):\n    b.planning[0] = True\n    return a + 0", "changed its arguments"),
    "entropy": (
        "def f(a, b, c): return a * b.entropy",
        r"TypeError.*tokens.entropy is there for a function with",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_method_is_refused_before_the_run_in_one_line(tmp_path, name):
    program, message = WRONG[name]
    file = tmp_path / f"{name}.py"
    file.write_text(program)
    with pytest.raises(ConfigError, match=message) as caught:
        try_method(f"{file}:f", OPTIONS)
    assert str(caught.value).startswith("credit.method")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_that_asks_for_entropy_gets_it(tmp_path):
    (tmp_path / "asks.py").write_text("def f(a, b, c): return a * b.entropy\nf.needs_entropy = True")
    address = f"{tmp_path}/asks.py:f"
    try_method(address, OPTIONS)
    assert needs_entropy(address, find_method(address))
    assert needs_entropy("entropy", METHODS["entropy"])
    assert not needs_entropy("hicra", METHODS["hicra"])


def test_a_method_that_fails_during_a_run_is_named_with_the_problem(tmp_path):
    (tmp_path / "late.py").write_text("def f(a, b, c):\n    assert len(a) == 5, 'only\\nfive'\n    return 2 * a")
    address = f"{tmp_path}/late.py:f"
    try_method(address, OPTIONS)
    row = torch.zeros(1, dtype=torch.int64)
    vision: Any = None  # credit looks at no prompt
    group = Group(Prompt(Problem("p7", "?", (), "1", "number"), [0], row, row.bool(), vision), [])
    for number, length in enumerate((5, 5, 4)):
        completion = Completion([1] * length, [0.0] * length, "stop", "")
        completion.reward, completion.planning = reward(float(number)), torch.zeros(length, dtype=torch.bool)
        group.completions.append(completion)
    with pytest.raises(MethodError, match=r"problem p7, completion 2: credit.method .*late.py:f failed: Assertion"):
        assign_credit(group, find_method(address), OPTIONS)
    assert all(completion.advantages is None for completion in group.completions)
    del group.completions[2]
    assign_credit(group, find_method(address), OPTIONS)
    assert [completion.advantages.tolist() for completion in group.completions] == [[-1.0] * 5, [1.0] * 5]  # type: ignore


def reward(total: float) -> RewardRecord:
    return RewardRecord(None, "none", "1", "wrong", "", {}, total)


def test_signals_are_handed_on_as_they_are(tmp_path):
    (tmp_path / "same.py").write_text("def f(a, b, c): return a + c.alpha * b.planning")
    rule = find_method(f"{tmp_path}/same.py:f")
    planning = torch.tensor([True, False])
    made = rule(torch.tensor([1.0, 1.0]), TokenSignals(planning), OPTIONS)
    assert made.tolist() == pytest.approx([1.2, 1.0])
