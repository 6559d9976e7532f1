"""What a gram library would mark in given responses: planning density, hits, examples. Needs no training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.hicra.grams import GramLibrary
from mmhicra.hicra.planning import Match, PlanningMatcher
from mmhicra.hicra.spans import token_spans
from mmhicra.mining.ngrams import Progress
from mmhicra.mining.solutions import TEXT_FIELDS, detect_field, field_of, read_records, solution_files

CONTEXT = 30
"""Characters shown on either side of a hit."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a library marks in R responses.

    Attributes:
        responses: R.
        tokens: of all responses.
        planning: how many of the tokens are planning tokens.
        multiword: how many of them still are without the grams of one word.
        responses_with_hit: how many responses hold at least one gram.
        hits: occurrences of each gram that occurs, by its text.
        examples: the first occurrence of each of these with what stands around it: before, the hit, after.
    """

    responses: int
    tokens: int
    planning: int
    multiword: int
    responses_with_hit: int
    hits: Counter[str]
    examples: dict[str, tuple[str, str, str]]

    @property
    def density(self) -> float:
        """Share of planning tokens."""
        return self.planning / max(self.tokens, 1)

    @property
    def multiword_density(self) -> float:
        """Share of planning tokens without the grams of one word."""
        return self.multiword / max(self.tokens, 1)


def read_responses(sources: Sequence[str | Path], text_field: str | None = None) -> list[list[int] | str]:
    """All responses, right or wrong, of run folders and JSON Lines files: the sampled ids of rollouts, else the text.

    Raises:
        DataError: a file or field cannot be read, or there is no response.
    """
    responses: list[list[int] | str] = []
    for files in solution_files(sources):
        for where, record in read_records(files):
            text_field = text_field or detect_field(record, TEXT_FIELDS, "--text-field", where)
            ids = record.get("ids")
            response = ids if isinstance(ids, list) else field_of(record, text_field, "--text-field", where)
            if not isinstance(response, list | str):
                raise DataError(f"{where}: {text_field} is {type(response).__name__}, not text: mend it")
            responses.append(response)
    if not responses:
        raise DataError(f"{', '.join(map(str, sources))}: no response in it: name another")
    return responses


def inspect_library(
    library: GramLibrary,
    responses: Sequence[list[int] | str],
    tokenizer: Any,
    *,
    progress: Progress = lambda phase, done, total: None,
    **options: Any,
) -> Inspection:
    """Match the library in responses, given as generated ids or as text that the tokenizer is to split.

    Args:
        library: the grams.
        responses: of the tokenizer's model, else density is about another model's tokens.
        tokenizer: byte-level BPE.
        progress: called now and then.
        options: those of `PlanningMatcher`.

    Raises:
        UserError: the tokenizer is not byte-level BPE.
    """
    matcher = PlanningMatcher(library, tokenizer, **options)
    tokens = planning = multiword = with_hit = 0
    hits: Counter[str] = Counter()
    examples: dict[str, tuple[str, str, str]] = {}
    for number, response in enumerate(responses, start=1):
        ids = tokenizer.encode(response, add_special_tokens=False) if isinstance(response, str) else response
        marked = matcher.read(ids)
        tokens += len(ids)
        planning += int(marked.planning.sum())
        multiword += int(marked.multiword.sum())
        with_hit += bool(marked.matches)
        hits.update(match.gram.text for match in marked.matches)
        new = [match for match in marked.matches if match.gram.text not in examples]
        if new:
            text, _ = token_spans(ids, tokenizer)
            for match in new:
                examples.setdefault(match.gram.text, _in_context(text, match))
        if number % 100 == 0 or number == len(responses):
            progress("matching", number, len(responses))
    return Inspection(len(responses), tokens, planning, multiword, with_hit, hits, examples)


def _in_context(text: str, match: Match) -> tuple[str, str, str]:
    before = text[max(0, match.start_char - CONTEXT) : match.start_char]
    after = text[match.end_char : match.end_char + CONTEXT]
    return before, text[match.start_char : match.end_char], after


def model_of(sources: Sequence[str | Path]) -> str | None:
    """The `model.path` of the first run folder among the sources, None if there is none.

    Raises:
        ConfigError: its `config.yaml` is broken.
    """
    from mmhicra.config.loading import read_yaml

    for source in sources:
        config = Path(source) / "config.yaml"
        if config.is_file():
            model = read_yaml(config).get("model")
            return model.get("path") if isinstance(model, dict) else None
    return None


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a model's folder, or by its name on the hub.

    Raises:
        DataError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"tokenizer {folder}: cannot be loaded ({reason}): name a folder by --tokenizer") from None
