"""What a run says: lines through :mod:`logging`, live progress through rich on anything over two seconds."""

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
# Where torchao is installed, importing it warns of every GPU kernel that this machine has no use for.
_NOISY = ("torchao", "torch.utils._pytree")


def setup(*, debug: bool = False, bars: bool = True) -> None:
    """Send our log lines to standard error; ``debug`` shows more. Other libraries stay at warnings or errors.

    Without ``bars`` the terminal gets lines alone, as where several processes share it.
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
    """Warnings alone from here on: another process of the same run says the rest."""
    global console
    console = Console(stderr=True, quiet=True)
    logger.setLevel(logging.WARNING)


@contextlib.contextmanager
def progress(description: str, total: int | None) -> Iterator[Progress]:
    """A progress bar with one task: call ``advance(0)`` and ``update(0)`` on it.

    Where standard error is no terminal the bar is silent and a line at the end gives count and seconds.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(description, total=total)
        yield bar
        done = bar.tasks[0].completed
        description = bar.tasks[0].description
    logger.info("%s: %d in %.1f s", description, done, time.monotonic() - started)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to ``seconds[name]``."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
