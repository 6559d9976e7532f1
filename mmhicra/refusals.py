"""What the user can mend: one class of errors that end a run with one clear line and exit status 2."""

from __future__ import annotations


class Refusal(Exception):
    """Something the user can mend. The message names the file, field or sample and the way to mend it.

    Only `cli.main` catches it; everything else that escapes is a bug and keeps its traceback.
    """


class ConfigRefusal(Refusal):
    """A configuration that cannot be run: unknown key, wrong type, contradiction."""


class DataRefusal(Refusal):
    """Data that cannot be used: a missing source, a column that is not there, too many refused rows."""


class RunFolderRefusal(Refusal):
    """A run folder that cannot be written, or is not what `--resume` expects."""
