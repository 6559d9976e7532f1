"""What is guessed where no answer is declared; only with `loose`, which rewards never set."""

from __future__ import annotations

import pytest

from mmhicra.rewards.answers import GUESSES, extract
from mmhicra.rewards.fallback_extraction import guess_number, number_stated
from mmhicra.rewards.fallback_options import guess_option, options_quoted
from mmhicra.rewards.options import options_named

NUMBERS = [
    ("The number of flocks with at least 17 birds is 15.", "How many flocks have at least 17 birds?", "15"),
    ("There are three objects in the picture.", "", "3"),
    ("There are no objects left.", "", "0"),
    ("There are 3 bars below 40. They are the bars for 2014, 2015 and 2016.", "How many are below 40?", "3"),
    ("10 - 3 - 2 = **5 objects** are left. I hope this helps! Let me know about the other 7.", "", "5"),
    ("Luca needs $0.06 + $0.07 = $0.13.", "", "0.13"),
    ("The numbers range from 0 to 7.", "", None),
    ("I cannot see how far apart the two people are.", "", None),
    ("The model is WizardLM-30B.", "", None),
    ("It is 12.\n```\nprint(13)\n```\n| a | 14 |", "", "12"),
    ("The total is 1,234 and that is all.", "", "1234"),
    ("The year 2019 showed the largest gap. It was 7.84 then.", "Which year showed the largest gap?", "2019"),
    ("I see no date, but the gap was 7.84.", "In what year was the largest gap?", "7.84"),
    ("The smallest one is Bar 1 with a value of 10.", "What is the value of the smallest bar?", "10"),
    ("It is 5.\nQuestion: What is six?\nIt is 6.", "", "5"),
]


@pytest.mark.parametrize(("text", "question", "number"), NUMBERS)
def test_numbers(text, question, number):
    assert guess_number(text, question) == number


OPTIONS = [
    ("The clock shows 5:30.", ("9:30", "1:30", "5:30"), "5:30"),
    ("They are (C) Snake and raccoon. The insects suffer too.", ("Insects", "Hawk", "Snake and raccoon"), "C"),
    ("Sorry, as a text-based model I am not able to see.", ("A", "B", "C"), None),
    ("The most likely count is 80.", ("40", "60", "80"), "80"),
    ("We add 40 and 5, which is 45.", ("40", "60", "80"), "45"),
    ("It is not possible to tell whether it is red.", ("red", "blue"), None),
]


@pytest.mark.parametrize(("text", "choices", "named"), OPTIONS)
def test_options(text, choices, named):
    assert guess_option(text, choices) == named


def test_a_letter_is_guessed_where_the_options_are_not_known():
    assert extract('The piece that fits is the letter "C".', "choice", loose=True).text == "C"


def test_a_quoted_option_may_stand_in_another():
    assert options_quoted("the snake and raccoon", ("Snake", "Snake and raccoon")) == [1]
    assert options_quoted("180 degrees", ("80", "18")) == []


def test_bold_goes_before_what_is_beside_it():
    assert number_stated("of 12 and 14 it is **13** in the end") == "13"


def test_only_loose_reading_guesses():
    text = "The number of flocks is 15 in the end, which took me a while to see."
    assert extract(text, "number").text is None
    loose = extract(text, "number", loose=True)
    assert (loose.text, loose.method in GUESSES) == ("15", True)


def test_a_declared_letter_goes_before_a_boxed_value_that_is_no_option():
    text = r"So it is \boxed{45}. The answer is: (E)."
    assert extract(text, "choice", loose=True, choices=("7", "9", "11", "16", "18")).text == "(E)"
    assert extract(text, "choice", loose=True, choices=("7", "45", "11", "16", "18")).text == "45"
    assert extract(text, "choice", choices=("7", "45", "11", "16", "18")).text == "45"
    assert extract(text, "choice").text == "(E)"


def test_a_question_quoted_before_the_answer_is_not_the_answer():
    text = 'The correct answer to the question "Is Chartreuse the roughest?" is (B), no.'
    assert extract(text, "choice").text == "(B), no"


def test_stop_tokens_are_not_part_of_an_answer():
    assert extract("The answer is 5</s>", "number").text == "5"
    assert extract("B<|im_end|>\n", "choice").text == "B"


def test_an_option_may_be_followed_by_its_reasons():
    assert options_named("no, there are not more of them", ("Yes", "No")) == {1}
    assert options_named("no, or yes", ("Yes", "No")) == {0, 1}
