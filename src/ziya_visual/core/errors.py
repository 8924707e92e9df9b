"""The errors a user may meet. Each message says what was found, what was expected, where, and what to do.

The command line prints ``str(error)`` on one line and exits with code 2; ``--debug`` shows the traceback.
Violated invariants of our own code are ``assert`` statements instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZiyaError(Exception):
    """The base class of every error that a user can cause and fix."""


class ConfigError(ZiyaError):
    """A recipe, a flag or a ``key=value`` that cannot be used."""


class DataError(ZiyaError):
    """A file, image or record that cannot be read."""


class CheckpointError(ZiyaError):
    """A checkpoint folder that is incomplete, damaged or in an unknown layout."""


class EndpointError(ZiyaError):
    """An HTTP endpoint that cannot be reached, or whose answer is unusable."""


def one_line(error: object, limit: int = 200, *, hide: str | None = None) -> str:
    r"""Return the text of an error on one line, cut to ``limit`` characters, with ``***`` for a secret.

    >>> one_line(ValueError("first\n  second"))
    'first second'
    """
    text = " ".join(str(error).split())
    return (text.replace(hide, "***") if hide else text)[:limit]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the closest known name, or all of them.

    >>> nearest("step", ["steps", "seed"])
    "; did you mean 'steps'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
