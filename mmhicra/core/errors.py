"""What the user can mend: one class of errors that end a run with one clear line and exit status 2."""

from __future__ import annotations

import reprlib
import sys
import warnings


class _Brief(reprlib.Repr):
    """`repr` of the first few parts only; Python refuses to write integers of more than 4 300 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 4, 8, 8, 8
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() <= 200:
            return repr(x)
        return f"{'-' if x < 0 else ''}an integer of about {round(x.bit_length() * 0.30103)} digits"


_BRIEF = _Brief()


class UserError(Exception):
    """Something the user can mend. The message names the file, field or sample and the way to mend it.

    Only `cli.main` catches it; everything else that escapes is a bug and keeps its traceback.

    Attributes:
        told: the line is printed already, or by another process of the run.
    """

    told: bool = False

    def __str__(self) -> str:
        """The message, with control characters escaped: it may quote what a file holds, and goes to a terminal."""
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in super().__str__())


def tell(refusal: UserError) -> None:
    """Print its line, once."""
    if not refusal.told:
        print(f"mmhicra: {refusal}", file=sys.stderr, flush=True)
        refusal.told = True


class ConfigError(UserError):
    """A configuration that cannot be run: unknown key, wrong type, contradiction."""


class DataError(UserError):
    """Data that cannot be used: a missing source, a column that is not there, too many refused rows."""

    def __str__(self) -> str:
        """On one line, whatever the names and texts in it hold."""
        return super().__str__().replace("\n", " ")


class RunFolderError(UserError):
    """A run folder that cannot be written, or is not what `--resume` expects."""


def brief(value: object, limit: int = 80) -> str:
    """`repr` of what was given, cut to `limit` characters; cheap and on one line whatever it is."""
    text = repr(value[: limit + 1]) if isinstance(value, str) else " ".join(_BRIEF.repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str, limit: int = 400) -> str:
    """A message of somebody else's on one line: white space is one space, what is too long is cut in the middle."""
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + text[-2 * limit :]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else f"{text[: limit - 100]} ... {text[-95:]}"


_OLD = {
    "Refusal": UserError,
    "ConfigRefusal": ConfigError,
    "DataRefusal": DataError,
    "RunFolderRefusal": RunFolderError,
}


def __getattr__(name: str) -> type[UserError]:
    """The classes by their names in the first release candidate."""
    if name not in _OLD:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is called {_OLD[name].__name__} now", DeprecationWarning, stacklevel=2)
    return _OLD[name]
