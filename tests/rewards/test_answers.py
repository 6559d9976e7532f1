from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mmhicra.rewards.answers import extract, final_text

CASES = [
    # thinking
    ("<think>\\boxed{4}</think>\\boxed{5}", "math", "5", "boxed"),
    ("<think>\\boxed{4}</think>", "math", None, "empty"),
    ("<think>so \\boxed{4}", "math", None, "thinking never closed"),
    ("\\boxed{4} <think> but no", "math", None, "thinking never closed"),
    ("the prompt opened it, \\boxed{4} </think> \\boxed{5}", "math", "5", "boxed"),
    ("a <THINK>\\boxed{4}</THINK> b <think>\\boxed{3}</think> \\boxed{6}", "math", "6", "boxed"),
    ("<think> <think> \\boxed{1} </think> the answer is 2", "math", "2", "phrase"),
    # answer blocks
    ("<answer>4</answer> or <answer> 5 </answer>", "math", "5", "answer block"),
    ("<answer>4</answer> \\boxed{5}", "math", "4", "answer block"),
    ("<answer>so \\boxed{\\frac{1}{2}} cm</answer>", "math", "\\frac{1}{2}", "answer block, boxed"),
    ("<answer>\nThe answer is 7.\n</answer>", "math", "7", "answer block, phrase"),
    ("<answer>4</answer> and <answer>", "math", "4", "answer block"),
    ("<answer>4</answer><answer> </answer>", "math", "4", "answer block"),
    ("<answer>4", "math", None, "no answer found"),
    ("</answer>4<answer> I do not know what to say", "math", None, "no answer found"),
    # boxes
    ("\\boxed{4} hence \\boxed{5}", "math", "5", "boxed"),
    ("\\boxed{\\frac{1}{\\sqrt{2}}}", "math", "\\frac{1}{\\sqrt{2}}", "boxed"),
    ("\\fbox{5}", "math", "5", "boxed"),
    ("\\boxed {5}", "math", "5", "boxed"),
    ("\\boxed{x = \\boxed{5}}", "math", "5", "boxed"),
    ("\\boxed{\\{1, 2\\}}", "math", "\\{1, 2\\}", "boxed"),
    ("put it in \\boxed{}: \\boxed{5} in \\boxed{ }", "math", "5", "boxed"),
    ("{ { \\boxed{5} and \\boxed{6", "math", "5", "boxed"),
    ("\\boxed{5 and then I go on and on and on", "math", None, "no answer found"),
    # phrases
    ("The answer is 5.", "math", "5", "phrase"),
    ("so the final answer is: $x = 2.5$. Done.", "math", "$x = 2.5$", "phrase"),
    ("The answer is 4. No, the answer is 5", "math", "5", "phrase"),
    ("**Answer:** 5 cm", "math", "5 cm", "phrase"),
    ("### Final Answer\n\n12\n", "math", "12", "phrase"),
    ("The answer to this question is 12, because 3 x 4 = 12.", "math", "12", "phrase"),
    ("The answer is\n\\[\n  \\frac{1}{2}\n\\]\nas shown.", "math", "\\frac{1}{2}", "phrase"),
    ("所以答案是 12。", "math", "12", "phrase"),
    ("最终答案：$5$", "math", "$5$", "phrase"),
    ("故选：B", "choice", "B", "phrase"),
    ("The correct option is (C).", "choice", "(C)", "phrase"),
    ("I choose option B because it fits.", "choice", "B", "phrase"),
    ("Here option D is correct.", "choice", "D is correct", "phrase"),
    # bold, letters, bare
    ("First **two**, then it must be **16 m**. I hope this helps!", "math", "16 m", "bold"),
    ("**Step 1:** we add and get what we wanted, **7**", "math", "7", "bold"),
    ("We compare.\n(B)", "choice", "(B)", "letter at the end"),
    ("We compare.\nB. 40°", "choice", "B. 40°", "letter at the end"),
    ("It has to be the second one, which is marked (B).", "choice", "B", "letter at the end"),
    ("The options are\nA. 1\nB. 2\nC. 3\nD. 4", "choice", None, "no answer found"),
    ("14", "math", "14", "bare"),
    (" red circle\n", "text", "red circle", "bare"),
    # nothing
    ("", "math", None, "empty"),
    ("so 3 plus 4 gives 7 and that is how it goes", "math", None, "no answer found"),
    ("$$ \\boxed{$} **.**", "math", None, "no answer found"),
]


@pytest.mark.parametrize(("response", "kind", "text", "method"), CASES)
def test_the_rules(response, kind, text, method):
    assert (extract(response, kind).text, extract(response, kind).method) == (text, method)


def test_only_loose_guesses():
    response = "so 3 plus 4 gives 7 and that is how it goes"
    assert extract(response).text is None
    assert extract(response, loose=True).text == "7"
    assert extract("I would go for (B) if I had to say", "choice", loose=True).text == "B"
    assert extract("\\boxed{3} or 7", loose=True).text == "3"


HOSTILE = [
    "{",
    "}",
    "\\boxed{",
    "\\boxed",
    "<think>",
    "</think>",
    "<answer>",
    "<answer></answer>",
    "**",
    "** a",
    "answer is ",
    "answer ",
    "answer of ",
    "\n",
    " ",
    "A. ",
    "(",
    "\x00",
    "选",
    "\\",
]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("kind", ["math", "choice"])
def test_cost_is_linear_in_hostile_text(pattern, kind):
    def cost(length: int) -> float:
        text = pattern * (length // len(pattern))
        start = time.process_time()
        extract(text, kind, loose=True)
        return time.process_time() - start

    # Four times the text costs four times the time; a quadratic rule would cost sixteen times.
    limit = 10 * min(cost(50_000) for _ in range(3)) + 0.05
    assert any(cost(200_000) < limit for _ in range(3))


@given(st.text(alphabet="<think>/answer\\boxed{}5 \n"), st.sampled_from(["math", "choice", "number", "text"]))
@examples(deadline=None)
def test_what_is_extracted_stands_in_the_final_text(response, kind):
    found = extract(response, kind).text
    if found is not None:
        assert found.strip() == found != ""
        assert found in (final_text(response) or "")
