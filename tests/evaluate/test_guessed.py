"""Responses that declare no answer, each with a gold and whether a fair judge calls it right.

A table by kind: (kind, item kind, question, choices, gold, response, right). Most rows come in pairs: the gold that is
right and one that a careless reader would take.
"""

from __future__ import annotations

import json

import pytest

from mmhicra.evaluate.benchmarks.registry import load_responses, make_benchmark
from mmhicra.evaluate.scoring.records import Item, Response
from mmhicra.evaluate.scoring.robust import score_robust

YES_NO = ("Yes", "No")
COLOURS = "Is Periwinkle the maximum?"
CANNOT = ("12", "18", "24", "It cannot be determined from the information given")
ANGLES = ("40°", "50°", "60°", "70°", "80°")
SOLUTIONS = ("neither; their concentrations are the same", "Solution A", "Solution B")
FLAVOURS = "Is the number of mint cones larger than the number of lemon cones?"

ROWS = [
    # a refusal states nothing, whatever numbers stand in it
    ("refusal", "number", "What is the age gap between these two people in image?", (), "2",
     "I do not have enough information to determine the exact age gap between the two people in the image.", False),
    ("refusal", "number", "What is the age gap between these two people in image?", (), "2",
     "There is no way of telling how many years lie between the two of them.", False),
    ("refusal", "number", "Find $f(0)$.", (), "0",
     "The question does not provide enough information to determine the value of f(0).", False),
    ("refusal", "number", "Find $f(0)$.", (), "0", "Without knowing the graph, f(0) could be anything.", False),
    ("refusal", "number", "How long is the rope?", (), "3",
     "The image doesn't show sufficient detail about the 3 ropes.", False),
    ("refusal", "number", "What is the difference between two consecutive major ticks on the Y-axis?", (), "2",
     "As an AI, I don't have access to the picture. The difference between two consecutive major ticks depends on it.",
     False),
    ("refusal", "choice", "Is Dark Periwinkle the roughest?", YES_NO, "No",
     "Based on the image alone, there is no way to determine if Dark Periwinkle is the roughest.", False),
    ("refusal", "choice", "Is Dark Periwinkle the roughest?", YES_NO, "Yes",
     "I'm sorry, but I cannot say whether Dark Periwinkle is the roughest.", False),
    ("refusal", "choice", "How long is AB?", CANNOT, CANNOT[3],
     "AC = 6. Therefore, the length of AB cannot be determined from the information given.", True),
    ("refusal", "choice", "How long is AB?", CANNOT, "12",
     "BC = 12. Therefore, the length of AB cannot be determined from the information given.", False),
    ("refusal", "choice", "How long is AB?", ("Not enough information", "5", "7"), "Not enough information",
     "We know BC = 7 only. So there is not enough information to find AB.", True),
    ("refusal", "number", "Which number cannot be the perimeter?", (), "38",
     "The perimeter of the triangle cannot be 38.", True),
    ("refusal", "number", "I cannot see the clock. How many hours are left?", (), "4", "There are 4 hours left.", True),
    ("refusal", "number", "How long is AB?", (), "6", "AC = 6 here. I cannot say how long AB is.", False),
    # an echoed list of options names none of them
    ("echo", "choice", "Which?", ("A", "B", "C", "D", "E", "F"), "F",
     "Choose the answer.\n(A) A\n(B) B\n(C) C\n(D) D\n(E) E\n(F) F", False),
    ("echo", "choice", "Is it so?", YES_NO, "No", "Choices:\n(A) Yes\n(B) No", False),
    ("echo", "choice", "How large is the angle?", ANGLES, "80°",
     "The angle is one of these: (A) 40° (B) 50° (C) 60° (D) 70° (E) 80°", False),
    ("echo", "choice", "How large is the angle?", ANGLES, "50°",
     "The angle must be 50° since the others do not add up.\n(A) 40°\n(B) 50°\n(C) 60°\n(D) 70°\n(E) 80°", True),
    ("echo", "choice", "Which fruit?", ("pear", "plum", "fig"), "fig",
     "A. pear B. plum C. fig\nWhich one will you take?", False),
    ("echo", "choice", "Which fruit?", ("pear", "plum", "fig"), "plum",
     "The options are (A) pear, (B) plum, (C) fig. The basket holds (B) plum and nothing else of that colour.", True),
    ("echo", "choice", "Is it so?", YES_NO, "No", "(C) Yes\n(D) No", False),
    ("echo", "choice", "How large is the angle?", ANGLES, "60°", "A. 40°\nB. 50°\nC. 60°", False),
    # options that the question lists
    ("listed", "choice", "How far is it? (A) 60 km (B) 30 km", (), "B", "The answer is 30 km.", True),
    ("listed", "choice", "How far is it? (A) 60 km (B) 30 km", (), "B", "The answer is 60 km.", False),
    ("listed", "choice", "How far is it?\nA. 60\nB. 30\nC. 45", (), "C", "Adding the parts one finds 45.", True),
    # an option that is denied is not named
    ("denied option", "choice", "Which is related to acceleration?", ("Mass", "Force", "Slope", "Rate"), "Mass",
     "The correct options are B, C, and D. The first one can be dropped. Option A is not directly related to it.",
     False),
    ("denied option", "choice", "Which of these?", ("Mass", "Force", "Slope", "Rate"), "Rate",
     "It changes all the time. Option D is incorrect, because a rate has no direction.", False),
    ("denied option", "choice", "Which of these?", ("Mass", "Force", "Slope", "Rate"), "Force",
     "It has a direction, so (B) fits well here. Option D is incorrect, because a rate has none.", True),
    ("denied option", "choice", "Which of these?", ("Mass", "Force", "Slope", "Rate"), "Slope",
     "It is none of the others. Option C is wrong, because the line is a slope.", False),
    ("denied option", "choice", "Which of these?", ("x^2+1", "2x", "x-1"), "2x", r"\boxed{x^2+2x+1}", False),
    ("denied option", "choice", "What shape is it?", ("parallelogram", "rhombus", "square"), "rhombus",
     "Looking at the sides one finds that it is not a rhombus.", False),
    ("denied option", "choice", "What shape is it?", ("parallelogram", "rhombus", "square"), "rhombus",
     r"So I say \boxed{not a rhombus}.", False),
    ("denied option", "choice", "Is the statement true?", ("True", "False"), "True", r"\boxed{not true}", False),
    ("denied option", "choice", "What shape is it?", ("parallelogram", "rhombus", "square"), "square",
     "With four right angles and equal sides we see a square rather than a rhombus.", True),
    # a yes/no question is answered by its own statement
    ("statement", "choice", COLOURS, YES_NO, "No", "Looking at the bars, Periwinkle is not the maximum.", True),
    ("statement", "choice", COLOURS, YES_NO, "Yes", "Looking at the bars, Periwinkle is not the maximum.", False),
    ("statement", "choice", COLOURS, YES_NO, "Yes", "In this chart of colours Periwinkle is the maximum.", True),
    ("statement", "choice", COLOURS, YES_NO, "Yes", "In this chart of colours Orchid is the maximum.", False),
    ("statement", "choice", COLOURS, YES_NO, "Yes",
     "To see whether Periwinkle is the maximum, we compare all of the bars.", False),
    ("statement", "choice", COLOURS, YES_NO, "No", "Periwinkle isn't the maximum, since Orchid reaches higher.", True),
    ("statement", "choice", "Is Periwinkle the minimum?", YES_NO, "No",
     "No, Periwinkle is not the minimum. The minimum color is A.", True),
    ("statement", "choice", "Is Periwinkle the minimum?", YES_NO, "Yes",
     "No, Periwinkle is not the minimum. The minimum color is A.", False),
    ("statement", "choice", "Is Periwinkle less than Orchid?", ("no", "yes"), "yes",
     "As can be seen, Periwinkle is less than Orchid.", True),
    ("statement", "choice", "Is Periwinkle less than Orchid?", ("no", "yes"), "yes",
     "As can be seen, Orchid is less than Periwinkle.", False),
    ("statement", "choice", FLAVOURS, YES_NO, "Yes",
     "Adding up, the number of mint cones is larger than the number of lemon cones.", True),
    ("statement", "choice", FLAVOURS, YES_NO, "No",
     "Adding up, the number of mint cones is not larger than the number of lemon cones.", True),
    ("statement", "choice", FLAVOURS, YES_NO, "Yes",
     "We count to see if the number of mint cones is larger than the number of lemon cones.", False),
    ("statement", "choice", "Does Crimson have the lowest value?", YES_NO, "No",
     "From left to right, Crimson does not have the lowest value.", True),
    ("statement", "choice", "Does Crimson have the lowest value?", YES_NO, "Yes",
     "From left to right, Crimson has the lowest value.", True),
    ("statement", "text", "Is the square inside of the circle?", (), "no",
     "As drawn here the square is not inside of the circle.", True),
    ("statement", "text", "Is the square inside of the circle?", (), "yes",
     "As drawn here the square is not inside of the circle.", False),
    ("statement", "text", "Is the square inside of the circle?", (), "yes",
     "As drawn here the square is inside of the circle.", True),
    # of a comparison its subject is named
    ("comparison", "choice", "Which is larger?", ("Sun", "Moon"), "Sun", "The sun is larger than the moon.", True),
    ("comparison", "choice", "Which is larger?", ("Sun", "Moon"), "Moon", "The sun is larger than the moon.", False),
    ("comparison", "choice", "Which solution has a higher concentration of pink particles?", SOLUTIONS, "Solution A",
     "Solution A has a higher concentration because there are more pink balls in Solution A than in Solution B.", True),
    ("comparison", "choice", "Which solution has a higher concentration of pink particles?", SOLUTIONS, "Solution B",
     "Solution A has a higher concentration because there are more pink balls in Solution A than in Solution B.",
     False),
    ("comparison", "choice", "Which has the fewest main veins?",
     ("Pinnate", "Parallel", "Arcuate", "Palmate venation"), "Pinnate",
     "Palmate venation (option D) has five of them. Overall the option with the least number is A (3 main veins).",
     True),
    ("comparison", "choice", "Where is the maximum?", ("(u1, u2) = (0, 0)", "(u1, u2) = (1, 0)"), "(u1, u2) = (0, 0)",
     "The function reaches its maximum at (u1, u2) = (0, 0).", True),
    ("comparison", "choice", "Where is the maximum?", ("(u1, u2) = (0, 0)", "(u1, u2) = (1, 0)"), "(u1, u2) = (1, 0)",
     "The function reaches its maximum at (u1, u2) = (0, 0).", False),
    # numbers: what is asked for, not what is told beside it
    ("number", "number", "Divide 4 dots into 2 equal groups. How many dots are in each group?", (), "2",
     "The model has 4 dots divided into 2 equal groups, with 2 dots in each group.", True),
    ("number", "number", "Divide 6 dots into 2 equal groups. How many dots are in each group?", (), "3",
     "The model shows 6 dots in 2 equal groups, with 3 dots in each group.", True),
    ("number", "number", "Divide 6 dots into 2 equal groups. How many dots are in each group?", (), "6",
     "The model shows 6 dots in 2 equal groups, with 3 dots in each group.", False),
    ("number", "number", "How many methods achieve an A-847 score higher than 20.0?", (), "3",
     "From the table, there are 3 methods that achieve an A-847 score higher than 20.0. "
     "The A-847 score is taken for the 847 observers.", True),
    ("number", "number", "What is the missing number?", (), "4", "The missing number is 4.\n\n1, 2, 3, __, 5", True),
    ("number", "number", "What is the final value?", (), "2",
     "Reading the last bar, the final value is 2. In 2008, 2011, and 2014, other values are seen.", True),
    ("number", "number", "What is the mode?", (), "10",
     "The mode is 10, which is seen twice. On Friday, she did 5 of the tasks.", True),
    ("number", "number", "When does the function first reach 2?", (), "3",
     "From the graph, it will occur when x = 3. The function value is 2 when x = 3", True),
    ("number", "number", "How many birds are there?", (), "12", "I count the wings and then there are 12 birds.", True),
    ("number", "number", "How many flocks have at least 17 birds?", (), "17",
     "To answer we look at flocks with at least 17 birds.", False),
    ("number", "number", "How many flocks have at least 17 birds?", (), "4",
     "In the end the flocks that have at least 17 birds are 4.", True),
    # a range, a ratio or two numbers are not one number
    ("range", "number", "What is the range?", (), "13", "The range is 13 to 20.", False),
    ("range", "number", "What is the range?", (), "20", "The range is 13 to 20.", False),
    ("range", "number", "How old is the child?", (), "13", "It seems that the child is 13-18 years old.", False),
    ("range", "number", "What is the fuel economy?", (), "40", "My estimate of it lies around 40-50 mpg.", False),
    ("range", "number", "How many are there?", (), "30", "There must be between 30 and 40 of them here.", False),
    ("range", "number", "What is the ratio?", (), "1", "From what is drawn the overall ratio is 1:2.", False),
    ("range", "number", "What is the ratio?", (), "0.5",
     "From what is drawn the overall ratio is 1:2.", True),
    # negations and hedges
    ("hedge", "number", "What is 17 + 25?", (), "42", "The answer is not 42.", False),
    ("hedge", "number", "What is 17 + 25?", (), "42", "The answer is either 42 or 43.", False),
    ("hedge", "number", "What is 17 + 25?", (), "43", "The answer is either 42 or 43.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 \text{ (or possibly 6)}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{5 apples and 6 pears}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{not } 5}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5\text{ but maybe }7}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{5 is wrong}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "After some thought it can be anything other than 5 here.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "After some thought the sum isn't 5 at all, as it seems.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "After some thought the sum is more than 5, as it seems.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "It is not 6, as some would say. The sum of both is 5.", True),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{the sum is } 5}", True),
    ("hedge", "number", "What is 8 + 8?", (), "16", r"\boxed{1 6}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 more than six}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{5 instead of seven}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 \text{ untrue, wrong}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 incorrect}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 cubed}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 thousand people}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "The answer is 5 meters less.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "The answer is x, where x > 5.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "The answer is anything but 5.", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{5 \text{ bananas and a half}}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", r"\boxed{\text{maybe } 5}", False),
    ("hedge", "number", "What is 2 + 3?", (), "5", "Let me see: 5, 6, 7.", False),
    ("hedge", "choice", "How many are there?", ("5", "12"), "12", r"\boxed{12 \text{ thousand}}", False),
    ("hedge", "number", "How many bars are larger than 4?", (), "2", "The answer is 2 bars have values larger than 4.",
     True),
    ("hedge", "number", "Which year has more income?", (), "1982",
     "So the answer is 1982 with an actual total income of $931,441.", True),
    ("number", "number", "What is 17 + 25?", (), "42", "17 + 25\n#### 42", True),
    ("number", "number", "What is 17 + 25?", (), "25", "17 + 25\n#### 42", False),
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted({row[0] for row in ROWS}))
def test_what_is_guessed_is_right_and_nothing_else(kind, verifier):
    rows = [row for row in ROWS if row[0] == kind]
    pairs = [
        (Item(str(number), question, gold, form, choices), Response(str(number), response))
        for number, (_, form, question, choices, gold, response, _) in enumerate(rows)
    ]
    records = score_robust(pairs, "response", verifier)
    wrong = [(row[5], row[4], r.extracted, r.why) for row, r in zip(rows, records, strict=True) if r.correct != row[6]]
    assert not wrong


def test_of_a_program_what_it_printed_is_read(tmp_path):
    rows = [
        {"pid": "1", "response": "x = 3\nprint(x + 4)", "execution": "7"},
        {"pid": "2", "response": "The answer is 5."},
    ]
    path = tmp_path / "output_code.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    responses, _ = load_responses(make_benchmark("mathvista"), str(path))
    assert [response.text for response in responses] == ["7", "The answer is 5."]
