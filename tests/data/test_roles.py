"""Which columns are taken for choices and images by their names, and which images of a chat count."""

import pytest

from mmhicra.core.records import ProblemImage
from mmhicra.data.columns import find_choice_columns, find_image_columns, guess_column
from mmhicra.data.questions import place_images, read_chat


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["question", "option_b", "option_a"], ["option_a", "option_b"]),
        (["A", "B", "C", "answer"], ["A", "B", "C"]),
        (["choice1", "choice2", "choice3"], ["choice1", "choice2", "choice3"]),
        (["opt0", "opt1"], ["opt0", "opt1"]),
        (["A", "answer"], []),
        (["option_b", "option_c"], []),
        (["A", "C"], []),
        (["A", "B", "D"], ["A", "B"]),
    ],
)
def test_a_column_for_each_choice(columns, found):
    assert list(find_choice_columns(columns)) == found


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["image_1", "image_2", "image_10"], []),
        (["image_2", "image_1", "image_3"], ["image_1", "image_2", "image_3"]),
        (["img0", "img1"], ["img0", "img1"]),
        (["Image Path", "text"], ["Image Path"]),
        (["text"], []),
    ],
)
def test_columns_of_images(columns, found):
    assert list(find_image_columns(columns, [dict.fromkeys(columns, "a.png")])) == found


def test_a_question_is_guessed_before_a_prompt_and_a_text():
    assert guess_column("question", ["text", "My Prompt", "the_question"]) == "the_question"
    assert guess_column("answer", ["output", "final_answer"]) == "final_answer"
    assert guess_column("images", ["image"]) is None


def test_images_that_a_turn_carries_take_the_place_of_the_columns():
    content = [{"type": "image", "image": "own.png"}, {"type": "text", "text": "How many?"}]
    said = ("<image>How many?", ["own.png"], None, "")
    assert read_chat([{"role": "user", "content": content}], ["column.png"]) == said
    content[0] = {"type": "image"}
    said = ("<image>How many?", ["column.png"], None, "")
    assert read_chat([{"role": "user", "content": content}], ["column.png"]) == said


def test_images_follow_the_numbers_of_their_placeholders():
    one, two, three = (ProblemImage(b"", name) for name in ("1", "2", "3"))
    text, images = place_images("<image3> and <image1>, <image2>, <image 3>", [one, two, three])
    assert (text, images) == ("<image> and <image>, <image>, <image>", (three, one, two, three))
    assert place_images("Both?", [one, two]) == ("<image><image>\nBoth?", (one, two))
    assert place_images("Which of <image1> and <image2>?", [one], merged=True)[1] == (one,)
