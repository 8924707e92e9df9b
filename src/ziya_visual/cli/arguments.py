"""Arguments that several commands have, and how they say what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Seed = Annotated[int, typer.Option(help="Of everything that is drawn or initialised.")]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder.")]
Weights = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(help="Of the weights in memory; int8 is for a CPU and few users, auto as they were saved."),
]


def show(values: dict[str, Any]) -> None:
    """A name and its value a line, numbers with four decimals."""
    for name, value in values.items():
        typer.echo(f"{name:32} {value:.4f}" if isinstance(value, float) else f"{name:32} {value}")


def warn(sentences: list[str]) -> None:
    """A line on standard error for each."""
    for sentence in sentences:
        typer.echo(f"warning: {sentence}", err=True)
