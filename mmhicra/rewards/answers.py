r"""Reads the answer out of a response: the one extractor, for rewards and for evaluation.

Every rule is a scan whose cost grows linearly with the response, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmhicra.core.records import AnswerKind
from mmhicra.rewards.fallback_extraction import guess_number, states_number
from mmhicra.rewards.fallback_options import guess_option, guess_yes_or_no
from mmhicra.rewards.notation import brace_pairs, plain
from mmhicra.rewards.options import options_named
from mmhicra.rewards.sentences import first_turn
from mmhicra.rewards.statements import asks_yes_or_no

_THINK_TAG = re.compile(r"<(/?)think>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,8}\{")
_BARE_BOX = re.compile(r"\\boxed\s{0,8}(-?\d[\d,]*(?:\.\d+)?(?![\w^/])|[A-Z](?![A-Za-z]))")
_BETWEEN_BOXES = re.compile(
    r"[\s$\\()\[\]]*(?P<joint>[,，、;；]?\s*(?:\b(?:and|or)\b|[和与或]|\\text\s*\{\s*(?:and|or)\s*\}|\\quad|\\qquad)?)[\s$\\()\[\]]*"
    r"(?:(?P<label>[A-Za-z](?:_\{?\w{1,3}\}?)?)\s*=\s*)?[\s$\\()\[\]]*"
)
_LABEL_BEFORE_BOX = re.compile(r"([A-Za-z](?:_\{?\w{1,3}\}?)?)\s*=\s*\$*\s*\Z")
_PHRASE = re.compile(
    r"(?:\banswer\b(?:\s+(?:to|of|for)\s(?:[^.:\n\"“]{0,80}[\"“][^\n\"”]{1,200}[\"”]|[^.:\n]{1,80}?))?"
    r"|\bcorrect\s(?:option|choice|answer)(?:\sletter)?\b)"
    r"(?:[\s*_]{0,4}(?:\b(?:is|are|(?:should|would|must)\sbe)\b|[:：=])|[*_#]{0,4}[ \t]{0,4}\n)"
    r"|【(?:最终|正确|参考)?答案】\s{0,4}[:：]?"
    r"|(?:最终|正确)?(?:答案|结果)(?:的?选项)?\s{0,4}(?:应该是|应为|是|为|选择|选|[:：])(?:选项(?=\s?[(（]?[A-Z]))?"
    r"|(?<![不没别未非排])(?:故|应|因此|所以)?(?<!不)(?<!不[能可会该要])选(?:择|项)?\s{0,4}[:：是为]?(?=[\s(（]{0,4}[A-Z](?!\s?(?:选项)?\s?(?:不|错|是|为|正|对)))",
    re.IGNORECASE,
)
_CHOOSING = re.compile(
    r"\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)\s(?:(?:option|choice|answer)\s)?(?=\(?[A-Z]\)?(?![A-Za-z]))"
    r"|\b(?:[Oo]ption|[Cc]hoice)\s(?=\(?[A-Z]\)?\sis\s(?:correct|right|the\s(?:correct|right|answer)))"
    r"|(?<![A-Za-z.])(?=\(?[A-Z]\)?\sis\s(?:the\s)?(?:(?:only\s)?(?:correct|right|best)\s)?(?:answer|option|choice)\b)"
)
_DECLARED_IN_CHINESE = re.compile(
    r"(?:选项|答案)?\s?[(（]?(?<![A-Za-z])([A-Z])[)）]?\s?(?:选项)?\s?(?:是|为)?(?:唯一|最)?(?:正确|对的)(?:的)?(?:答案|选项)?(?!吗|与否)"
)
_ABBREVIATIONS = "".join(
    rf"(?<!\b{each})" for each in ("Mr", "Ms", "Mrs", "Dr", "St", "Jr", "Sr", "Mt", "No", "vs", "approx", "Prof", "Ave")
)
_SENTENCE_END = re.compile(
    rf"[。！？]|{_ABBREVIATIONS}[.?](?=[\s*\"'”)]|$)"
    r"|,\s(?:so|since|because|as|which|where|therefore|thus|hence|not|rather than)\b"
    r"|\s(?:because|since|as (?:shown|required|desired|expected|claimed|above))\b"
    r"|\s?[(（](?=(?:since|because|as|from|where|which|using|by|i\.e|note|see|given|rounded|not)\b|因|由|注|即)"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_OPTION_LINE = re.compile(r"[\s*_(（\[]{0,6}(?:[Oo]ption\s)?[(（\[]?[A-Z][)）\]]?[\s*_]{0,4}(?:[.:：、)].{0,300})?")
_FIRST_LINE = re.compile(r"[\s*_#]{0,6}(?:[Oo]ption\s)?[(（\[]?([A-Z])[)）\]]?[\s*_]{0,4}(?:[.:：、)]|$)(.{0,120})")
_LETTER_END = re.compile(r"[(（]([A-Z])[)）][\s.。*_$]{0,6}\Z")
_LETTER_FIRST = re.compile(r"[\s*$({\[]{0,9}(?:\\(?:text|math)\w{0,6}\s?\{\s?)?[({\[]?[A-Z](?![\w'°^=+*/-]|\s?[=+*/-])")
_EMPTY_SET = re.compile(r"\\(?:\{|lbrace)\s*\\(?:\}|rbrace)")
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_HASHES = re.compile(r"^[ \t]{0,8}#{4}[ \t]{1,8}(\S.{0,200})$", re.MULTILINE)
_STOP_TOKENS = ("</s>", "<eos>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>")
_LONGEST_CLAUSE = 300
_LONGEST_JOINT = 60
_MOST_PHRASES = 1000
"""Phrases of a response that are read, from its end: so many empty ones are no answer but a loop."""
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
    * `boxed`: the last balanced `\boxed` or `\fbox`, with the boxes joined to it (`last_boxes`). For choices a declared
      letter goes before a box that holds no option.
    * `hashes`, for evaluation: what follows the last `####`.
    * `phrase`: what follows the last "the answer is", "Answer:", "答案是", ...
    * `letter in the first line`, for choices: a first line `B` or `B. 40°` with more lines after it.
    * `bold`: the last bold span.
    * `letter at the end`, for choices: a last line `B`, `(B)` or `B. 40°`, or a final `(B)`.
    * `bare`: the whole text is one short line.

    Args:
        response: what the model wrote, hostile or not.
        kind: `choice` adds the rules that find option letters.
        loose: for evaluation, never for rewards. A `phrase` or `bold` without a number does not count where a number is
            wanted, and as a last resort the answer is guessed (`GUESSES`; see `fallback_extraction`).
        question: its numbers are no answer if there are others. Only read with `loose`.
        choices: the options of a multiple-choice problem.
    """
    text = final_text(response)
    if text is None:
        return Extraction(None, "thinking never closed")
    if loose:
        text = first_turn(text)
    phrase = _choice_phrase if kind == "choice" else _phrase
    block = last_answer_block(text)
    if block is not None:
        method, found = _first([("boxed", last_boxes), ("phrase", phrase)], block)
        return Extraction(found, f"answer block, {method}") if found else Extraction(block, "answer block")
    rules: list[_Rule] = [("boxed", last_boxes), ("phrase", phrase), ("bold", _bold)]
    if loose:  # as GSM8K's solutions end
        rules.insert(1, ("hashes", _after_hashes))
    if loose and kind == "number":
        rules[2:] = [("phrase", lambda text: _phrase(text, wanted=states_number)), ("bold", _bold_number)]
    if kind == "choice":  # a declared letter goes before a boxed value that is no option
        lettered = ("phrase", lambda text: _choice_phrase(text, _names_letter))
        rules[:1] = [("boxed", lambda text: _boxed_option(text, choices)), lettered, *rules[:1]]
        rules.insert(
            len(rules) - 1, ("letter in the first line", lambda text: _letter_in_the_first_line(text, choices))
        )
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
    boxes = _boxes(text)
    if boxes:
        return boxes[-1][2]
    bare = list(_BARE_BOX.finditer(text))
    return bare[-1][1] if bare else None


def last_boxes(text: str) -> str | None:
    r"""`last_box`, together with the boxes before it that are joined to it: `x=\boxed{1}` and `x=\boxed{2}` are `1, 2`.

    Boxes are joined by a comma, "and" or "or", or stand on one line with nothing but a label between them.
    """
    boxes = _boxes(text)
    return _joined(text, boxes)[0] if boxes else last_box(text)


def joined_boxes(text: str) -> str | None:
    """All boxes of `text` as one list, None if there are not several or they are not all joined, none by "or"."""
    boxes = _boxes(text)
    found, first, joints = _joined(text, boxes) if len(boxes) > 1 else (None, -1, [])
    return found if first == 0 and " or " not in joints else None


def _joined(text: str, boxes: list[tuple[int, int, str]]) -> tuple[str, int, list[str]]:
    """The last box with those joined to it, the number of the first of them, and what joins each to the one before."""
    first = len(boxes) - 1
    labels, joints = [""] * len(boxes), [""] * len(boxes)
    while first > 0:
        between = text[boxes[first - 1][1] : boxes[first][0]]
        match = _BETWEEN_BOXES.fullmatch(between) if len(between) <= _LONGEST_JOINT else None
        if match is None or not (match["joint"].strip() or match["label"] or "\n" not in between):
            break
        labels[first], joints[first] = match["label"] or "", " or " if "or" in match["joint"] else ", "
        first -= 1
    before = _LABEL_BEFORE_BOX.search(text[max(0, boxes[first][0] - _LONGEST_JOINT) : boxes[first][0]])
    labels[first] = before[1] if before else ""
    named = first < len(boxes) - 1 and len(set(labels[first:])) == len(boxes) - first and all(labels[first:])
    parts = [f"{labels[at]} = {boxes[at][2]}" if named else boxes[at][2] for at in range(first, len(boxes))]
    return (
        "".join(f"{joint}{part}" for joint, part in zip(["", *joints[first + 1 :]], parts, strict=True)),
        first,
        joints,
    )


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of every balanced, non-empty box that holds no other."""
    openings = list(_BOX.finditer(text))
    pairs = brace_pairs(text) if openings else {}
    found: list[tuple[int, int, str]] = []
    for match in openings:
        opening = match.end() - 1
        if opening in pairs and (content := _tidy(text[opening + 1 : pairs[opening]])):
            if found and found[-1][1] > pairs[opening]:
                found.pop()
            found.append((match.start(), pairs[opening] + 1, content))
    return found


def _first(rules: list[_Rule], text: str) -> tuple[str, str | None]:
    for name, rule in rules:
        if found := _tidy(rule(text)):
            return name, found
    return "", None


def _tidy(found: str | None) -> str | None:
    """An answer without white space around it; None if nothing but punctuation and dollar signs is left."""
    if found is None:
        return None
    if not plain(found[:_LONGEST_CLAUSE]).strip("{}()[]*_#\\-") and not _EMPTY_SET.fullmatch(found.strip()):
        return None
    return found.strip()


def last_answer_block(text: str) -> str | None:
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


def _choice_phrase(text: str, wanted: Callable[[str], bool] = bool) -> str | None:
    """`_phrase`, and letters that are declared right: `B is the correct answer`, `选项B正确`."""
    chinese = list(_DECLARED_IN_CHINESE.finditer(text))
    found = _phrase(text[chinese[-1].end() :] if chinese else text, (_PHRASE, _CHOOSING), wanted)
    return found or (chinese[-1][1] if chinese else None)


def _clause(text: str, start: int) -> str:
    """The text from `start` to the end of the sentence or line; the next line if this one is empty."""
    ahead = text[start : start + _LONGEST_CLAUSE].lstrip(" \t\r\n*_:：#")
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):  # display mathematics may span lines
        if ahead.startswith(opening):
            return ahead.removeprefix(opening).split(closing, 1)[0]
    line = ahead.split("\n", 1)[0]
    end = _SENTENCE_END.search(line, 1)
    return (line[: end.start()] if end else line).rstrip("*_ \t")


def _bold(text: str) -> str | None:
    spans = (match[1].strip() for match in _BOLD.finditer(text))
    return next(reversed([span for span in spans if not span.endswith((":", "："))]), None)


def _names_letter(text: str) -> bool:
    return bool(_LETTER_FIRST.match(text))


def _boxed_option(text: str, choices: Sequence[str]) -> str | None:
    box = last_boxes(text)
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


def _letter_in_the_first_line(text: str, choices: Sequence[str]) -> str | None:
    """The first of several lines, if it is a letter, or a letter with its own option's text, and begins no list."""
    first, _, rest = text.strip().partition("\n")
    line = _FIRST_LINE.fullmatch(first[:_LONGEST_CLAUSE])
    following = rest.strip().partition("\n")[0]
    if line is None or not following or _OPTION_LINE.fullmatch(following[:_LONGEST_CLAUSE]):
        return None
    if (ending := _letter_at_the_end(text)) and options_named(ending, choices) != options_named(line[1], choices):
        return None
    own = not choices or not line[2].strip(" *.") or len(options_named(first, choices)) == 1
    return first if own else None


def _last_lines(text: str, count: int) -> Iterator[str]:
    """The last non-empty lines, last first."""
    end = len(text)
    while end >= 0 and count > 0:
        start = text.rfind("\n", 0, end) + 1
        if text[start:end].strip():
            count -= 1
            yield text[start:end]
        end = start - 1


def _after_hashes(text: str) -> str | None:
    found = _HASHES.findall(text)
    return found[-1] if found else None


def _bare(text: str) -> str | None:
    """The whole text, if it is one short line of at most three words: nothing but an answer."""
    line = text.strip()
    unfinished = "\n" in line or "answer>" in line or r"\boxed" in line
    if len(line) > _LONGEST_BARE_ANSWER or unfinished or len(_PLAIN_WORD.findall(line)) > 3:
        return None
    return line
