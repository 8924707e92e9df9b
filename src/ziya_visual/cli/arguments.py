"""Arguments that several commands share, and the way commands print their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Seed = Annotated[int, typer.Option(help="Random seed.")]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint folder.")]
Weights = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(help="Type of the weights in memory: auto is as saved; int8 suits a CPU with few users."),
]


def show(values: dict[str, Any]) -> None:
    """Print one name and value per line, floats with four decimals."""
    for name, value in values.items():
        typer.echo(f"{name:32} {value:.4f}" if isinstance(value, float) else f"{name:32} {value}")


def warn(messages: list[str]) -> None:
    """Print one line per warning on standard error."""
    for message in messages:
        typer.echo(f"warning: {message}", err=True)
