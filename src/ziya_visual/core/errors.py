"""The errors a user may meet. Each says what was found, what was expected, where, and what to do.

The command line prints ``str(error)`` on one line and exits with code 2; ``--debug`` shows the traceback.
Broken invariants of our own code are ``assert`` statements, never these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZiyaError(Exception):
    """The base of every error that a user can cause and mend."""


class ConfigError(ZiyaError):
    """A recipe, a flag or a ``key=value`` that cannot be used."""


class DataError(ZiyaError):
    """A file, picture or record that cannot be read."""


class CheckpointError(ZiyaError):
    """A checkpoint folder that is incomplete, damaged or of another form."""


class EndpointError(ZiyaError):
    """An HTTP endpoint that cannot be reached or answers with something unusable."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown ``name``: ``"; did you mean 'steps'?"`` or the known names.

    >>> nearest("step", ["steps", "seed"])
    "; did you mean 'steps'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
