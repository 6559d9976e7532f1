r"""Reads the answer out of a response: the one extractor, for rewards and for evaluation.

Every rule is a scan whose cost grows linearly with the response, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmhicra.records import AnswerKind
from mmhicra.rewards.guesses import guess_number, states_number
from mmhicra.rewards.notation import brace_pairs, plain
from mmhicra.rewards.option_guesses import guess_option, guess_yes_or_no
from mmhicra.rewards.options import options_named
from mmhicra.rewards.sentences import first_turn
from mmhicra.rewards.statements import asks_yes_or_no

_THINK_TAG = re.compile(r"<(/?)think>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,8}\{")
_PHRASE = re.compile(
    r"(?:\banswer\b(?:\s+(?:to|of|for)\s(?:[^.:\n\"“]{0,80}[\"“][^\n\"”]{1,200}[\"”]|[^.:\n]{1,80}?))?|\bcorrect\s(?:option|choice)\b)"
    r"(?:[\s*_]{0,4}(?:\b(?:is|are|(?:should|would|must)\sbe)\b|[:：=])|[*_#]{0,4}[ \t]{0,4}\n)"
    r"|(?:最终|正确)?(?:答案|结果)\s{0,4}(?:应该是|应为|是|为|[:：选])"
    r"|(?:故|应|因此|所以)?选(?:择|项)?\s{0,4}[:：是为]?(?=[\s(（]{0,4}[A-Z])",
    re.IGNORECASE,
)
_CHOOSING = re.compile(
    r"\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)\s(?:(?:option|choice|answer)\s)?(?=\(?[A-Z]\)?(?![A-Za-z]))"
    r"|\b(?:[Oo]ption|[Cc]hoice)\s(?=\(?[A-Z]\)?\sis\s(?:correct|right|the\s(?:correct|right|answer)))"
)
_SENTENCE_END = re.compile(
    r"[。！？]|[.?](?=[\s*\"'”)]|$)|,\s(?:so|since|because|as|which|where|therefore|thus|hence)\b|\sbecause\b"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_OPTION_LINE = re.compile(r"[\s*_(（\[]{0,6}(?:[Oo]ption\s)?[(（\[]?[A-Z][)）\]]?[\s*_]{0,4}(?:[.:：、)].{0,300})?")
_LETTER_END = re.compile(r"[(（]([A-Z])[)）][\s.。*_$]{0,6}\Z")
_LETTER_FIRST = re.compile(r"[\s*$({\[]{0,9}(?:\\(?:text|math)\w{0,6}\s?\{\s?)?[({\[]?[A-Z](?![\w'°^=+*/-]|\s?[=+*/-])")
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_STOP_TOKENS = ("</s>", "<eos>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>")
_LONGEST_CLAUSE = 300
_MOST_PHRASES = 1000
"""Of a response that are looked at, from its end: so many empty ones are no answer but a loop."""
_LONGEST_BARE_ANSWER = 80

GUESSES = frozenset({"last option", "last number", "last statement"})
"""Methods that found no declared answer and guessed one: fall-backs, counted beside every score."""

_Rule = tuple[str, Callable[[str], str | None]]


@dataclass(frozen=True)
class Extraction:
    """An answer read out of a response.

    Attributes:
        text: the answer as it was written, None if there is none.
        method: the rule that found it, or why nothing was found.
    """

    text: str | None
    method: str


def extract(
    response: str, kind: AnswerKind = "math", *, loose: bool = False, question: str = "", choices: Sequence[str] = ()
) -> Extraction:
    r"""Find the final answer of a response.

    Thinking is dropped first (`final_text`). Then the first of these that finds something counts:

    * `answer block`: the last closed `<answer>`; in it `boxed` and `phrase` are tried before all of it is taken.
    * `boxed`: the last balanced `\boxed` or `\fbox`.
    * `phrase`: what follows the last "the answer is", "Answer:", "答案是", ...
    * `bold`: the last bold span.
    * `letter at the end`, for choices: a last line `B`, `(B)` or `B. 40°`, or a final `(B)`.
    * `bare`: the whole text is one short line.

    Args:
        response: what the model wrote, hostile or not.
        kind: `choice` adds the rules that look for option letters.
        loose: for evaluation, never for rewards. A `phrase` or `bold` without a number does not count where a number is
            wanted, and as a last resort the answer is guessed (`GUESSES`; see `guesses`).
        question: its numbers are no answer if there are others. Only read with `loose`.
        choices: the options of a multiple-choice problem. Only read with `loose`.
    """
    text = final_text(response)
    if text is None:
        return Extraction(None, "thinking never closed")
    if loose:
        text = first_turn(text)
    phrase = _choice_phrase if kind == "choice" else _phrase
    block = _last_answer_block(text)
    if block is not None:
        method, found = _first([("boxed", last_box), ("phrase", phrase)], block)
        return Extraction(found, f"answer block, {method}") if found else Extraction(block, "answer block")
    rules: list[_Rule] = [("boxed", last_box), ("phrase", phrase), ("bold", _bold)]
    if loose and kind == "number":
        rules[1:] = [("phrase", lambda text: _phrase(text, wanted=states_number)), ("bold", _bold_number)]
    if loose and kind == "choice" and choices:  # a declared letter goes before a boxed value that is no option
        lettered = ("phrase", lambda text: _phrase(text, (_PHRASE, _CHOOSING), _names_letter))
        rules[:1] = [("boxed", lambda text: _boxed_option(text, choices)), lettered, *rules[:1]]
    if kind == "choice":
        rules.append(("letter at the end", _letter_at_the_end))
    rules.append(("bare", _bare))
    if loose and kind == "choice":
        rules.append(("last option", lambda text: guess_option(text, choices, question)))
    elif loose and kind != "text":
        rules.append(("last number", lambda text: guess_number(text, question)))
    elif loose and asks_yes_or_no(question):
        rules.append(("last statement", lambda text: guess_yes_or_no(text, question)))
    method, found = _first(rules, text)
    return Extraction(found, method if found else "no answer found" if text.strip() else "empty")


def final_text(response: str) -> str | None:
    """The response without its thinking.

    Closed `<think>` blocks are cut out; what stands before a `</think>` that was never opened (the prompt opened it)
    goes too. None if the last `<think>` was never closed: the response was cut short and has no answer.
    """
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THINK_TAG.finditer(response):
        if tag[1]:
            if not thinking:
                kept.clear()
            thinking, at = False, tag.end()
        elif not thinking:
            kept.append(response[at : tag.start()])
            thinking = True
    return None if thinking else _without_stop_tokens("".join([*kept, response[at:]]))


def _without_stop_tokens(text: str) -> str:
    """Some files keep them at the end of a response."""
    for _ in range(len(_STOP_TOKENS)):
        if token := next(filter(text.rstrip().endswith, _STOP_TOKENS), None):
            text = text.rstrip().removesuffix(token)
    return text


def last_box(text: str) -> str | None:
    r"""The content of the last balanced, non-empty `\boxed{...}`, the inner one of nested boxes."""
    boxes = [match.end() - 1 for match in _BOX.finditer(text)]
    if not boxes:
        return None
    pairs = brace_pairs(text)
    contents = (_tidy(text[opening + 1 : pairs[opening]]) for opening in reversed(boxes) if opening in pairs)
    return next(filter(None, contents), None)


def _first(rules: list[_Rule], text: str) -> tuple[str, str | None]:
    for name, rule in rules:
        if found := _tidy(rule(text)):
            return name, found
    return "", None


def _tidy(found: str | None) -> str | None:
    """An answer without white space around it; None if nothing but punctuation and dollar signs is left."""
    if found is None or not plain(found[:_LONGEST_CLAUSE]).strip("{}()[]*_#\\-"):
        return None
    return found.strip()


def _last_answer_block(text: str) -> str | None:
    """The last closed `<answer>` with something in it."""
    opened, block = -1, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened >= 0:
            block, opened = _tidy(text[opened : tag.start()]) or block, -1
    return block


def _phrase(
    text: str, patterns: tuple[re.Pattern[str], ...] = (_PHRASE,), wanted: Callable[[str], bool] = bool
) -> str | None:
    ends = sorted(match.end() for pattern in patterns for match in pattern.finditer(text))
    clauses = (_tidy(_clause(text, end)) for end in reversed(ends[-_MOST_PHRASES:]))
    return next((clause for clause in clauses if clause and wanted(clause)), None)


def _choice_phrase(text: str) -> str | None:
    return _phrase(text, (_PHRASE, _CHOOSING))


def _clause(text: str, start: int) -> str:
    """From `start` to the end of the sentence or line; the next line if this one is empty (a heading `Answer:`)."""
    ahead = text[start : start + _LONGEST_CLAUSE].lstrip(" \t\r\n*_:：#")
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):  # display mathematics may span lines
        if ahead.startswith(opening):
            return ahead.removeprefix(opening).split(closing, 1)[0]
    line = ahead.split("\n", 1)[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line


def _bold(text: str) -> str | None:
    spans = (match[1].strip() for match in _BOLD.finditer(text))
    return next(reversed([span for span in spans if not span.endswith((":", "："))]), None)


def _names_letter(text: str) -> bool:
    return bool(_LETTER_FIRST.match(text))


def _boxed_option(text: str, choices: Sequence[str]) -> str | None:
    box = last_box(text)
    return box if box and len(box) <= _LONGEST_CLAUSE and options_named(box, choices) else None


def _bold_number(text: str) -> str | None:
    """The last bold span with a digit; not a name that has one (`WizardLM-30B`)."""
    spans = [match[1] for match in _BOLD.finditer(text) if not match[1].strip().endswith((":", "："))]
    return next((span for span in reversed(spans) if states_number(span)), None)


def _letter_at_the_end(text: str) -> str | None:
    """The last line if it is an option and not the end of a list of options, or a bracketed letter at the very end."""
    lines = list(_last_lines(text, 2))
    if lines and _OPTION_LINE.fullmatch(lines[0]):
        listed = len(lines) > 1 and _OPTION_LINE.fullmatch(lines[1])
        return None if listed else lines[0]
    ending = _LETTER_END.search(text[-40:])
    return ending[1] if ending else None


def _last_lines(text: str, count: int) -> Iterator[str]:
    """The last non-empty lines, last first."""
    end = len(text)
    while end >= 0 and count > 0:
        start = text.rfind("\n", 0, end) + 1
        if text[start:end].strip():
            count -= 1
            yield text[start:end]
        end = start - 1


def _bare(text: str) -> str | None:
    """The whole text, if it is one short line of at most three words: nothing but an answer."""
    line = text.strip()
    unfinished = "\n" in line or "answer>" in line or r"\boxed" in line
    if len(line) > _LONGEST_BARE_ANSWER or unfinished or len(_PLAIN_WORD.findall(line)) > 3:
        return None
    return line
