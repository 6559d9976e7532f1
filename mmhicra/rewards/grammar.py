r"""LaTeX to sympy by the grammar of math-verify, in two stages: the same trees in a fifth of the time.

ANTLR's full LL prediction caches nothing and is needed for a single rule of this grammar. So a text is parsed with the
cached SLL prediction, and once more with LL only if that failed. By ANTLR's documentation of `PredictionMode.SLL` a
parse that succeeds is the one that LL would have found.
"""

from __future__ import annotations

from typing import Any

import math_verify.parser
import sympy
from antlr4 import CommonTokenStream, InputStream
from antlr4.atn.ParserATNSimulator import ParserATNSimulator
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.antlr_parser import PSLexer, PSParser
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

_NEEDS_CONTEXT = "atom_expr"
"""The one rule whose choices depend on what stands around it: SLL would send `x^2` to the second stage."""


def latex2sympy(
    latex: str,
    is_real: bool | None = None,
    convert_degrees: bool = False,
    normalization_config: None = None,
) -> Any:
    """What `latex2sympy2_extended.latex2sympy` makes of a text that is normalised already.

    Raises:
        Exception: the text is not in the grammar; its parser raises no narrower class.
    """
    return _Reader(None, is_real, convert_degrees, config=ConversionConfig()).parse(latex)


def speed_up() -> None:
    """Let `math_verify.parse` in this process parse by `latex2sympy` of this module."""
    math_verify.parser.latex2sympy = latex2sympy


class _Reader(_Latex2Sympy):
    def create_parser(self, latex_str: str) -> Any:
        listener = self.MathErrorListener(latex_str)
        lexer = PSLexer(InputStream(latex_str))
        parser = _Parser(CommonTokenStream(lexer))
        for recognizer in (lexer, parser):
            recognizer.removeErrorListeners()
            recognizer.addErrorListener(listener)
        return parser

    def parse_number(self, text: str) -> Any:
        # sympy would import itself anew and evaluate a string of Python for each `2`
        return sympy.Integer(int(text)) if text.isascii() and text.isdigit() else super().parse_number(text)


class _Parser(PSParser):
    def __init__(self, tokens: CommonTokenStream) -> None:
        super().__init__(tokens)
        known = self._interp
        self._interp: _Simulator = _Simulator(self, known.atn, known.decisionToDFA, known.sharedContextCache)

    def math(self) -> Any:
        try:
            return super().math()
        except Exception:  # noqa: BLE001 - whatever the listener raised; the second stage raises it again
            tokens: Any = self._input
            lexer = tokens.tokenSource
            lexer.reset()
            self.setTokenStream(CommonTokenStream(lexer))
            self._interp.second_stage = True
            return super().math()


class _Simulator(ParserATNSimulator):
    second_stage = False

    def adaptivePredict(self, input: Any, decision: int, outerContext: Any) -> int:  # noqa: N802, N803 - ANTLR's
        rule = self.parser.ruleNames[self.atn.decisionToState[decision].ruleIndex]
        exact = self.second_stage or rule == _NEEDS_CONTEXT
        self.predictionMode = PredictionMode.LL if exact else PredictionMode.SLL
        return super().adaptivePredict(input, decision, outerContext)
