"""Log lines through :mod:`logging`, and live progress bars through rich for anything over two seconds."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
logger = logging.getLogger("ziya_visual")
# When torchao is installed, importing it warns about every GPU kernel that this machine cannot use.
_NOISY = ("torchao", "torch.utils._pytree")


def setup(*, debug: bool = False, bars: bool = True) -> None:
    """Send our log lines to standard error, and only warnings or errors of noisy libraries.

    With ``debug`` there are more lines, with their levels. Processes that share a terminal draw no ``bars``.
    """
    global console
    console = Console(stderr=True, force_terminal=None if bars else False)
    handler = RichHandler(console=console, show_path=False, show_level=debug, rich_tracebacks=False)
    handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if debug else logging.ERROR)


def quiet() -> None:
    """Silence everything below a warning, in a process whose sibling already logs the run."""
    global console
    console = Console(stderr=True, quiet=True)
    logger.setLevel(logging.WARNING)


class ProgressBar:
    """One progress bar, as :func:`progress` yields it."""

    def __init__(self, bar: Progress, description: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total)

    def advance(self, count: int = 1) -> None:
        """Count further units of work as done."""
        self._bar.advance(self._task, count)

    def describe(self, description: str) -> None:
        """Replace the text before the bar."""
        self._bar.update(self._task, description=description)


@contextlib.contextmanager
def progress(description: str, total: int | None, done: int = 0) -> Iterator[ProgressBar]:
    """Show a progress bar for the duration of the block; call ``advance()`` on it.

    Where standard error is not a terminal the bar is silent, and a final line gives count and seconds.
    ``total`` is None if unknown; an earlier run has already completed ``done`` units.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = ProgressBar(bars, description, total)
        bar.advance(done)
        yield bar
        task = bars.tasks[0]
    logger.info("%s: %d in %.1f s", task.description, task.completed, time.monotonic() - started)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to ``seconds[name]``."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
