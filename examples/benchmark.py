"""A benchmark of your own: a card, a prompt, and official rules beside the robust ones."""

from dataclasses import dataclass

from mmhicra.evaluate.benchmarks.cards import Card
from mmhicra.evaluate.benchmarks.columns import ColumnBenchmark
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage

CARD = Card("last_word", "The last word", prompts=("short",), columns={"question": "question", "answer": "answer"})


@dataclass(frozen=True)
class LastWord(ColumnBenchmark):
    """Rows with `question` and `answer`; officially right is a response whose last word is the answer."""

    card: Card = CARD

    def write_prompt(self, item: Item, prompt: str) -> str:
        """What a model is asked; `prompt` is one of the card's."""
        return f"{item.question}\nAnswer with one word."

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """The verdict of the official rules."""
        said = (response.text.rstrip(" .}").replace("{", " ").split() or [""])[-1]
        right = said.lower() == item.answer.lower()
        return SampleRecord(item.id, right, said or None, "last word", said, item.answer, "same word" if right else "")
