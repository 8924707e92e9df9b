"""``ziya-visual forge``: data made by a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ziya_visual.cli.arguments import show

forge = typer.Typer(no_args_is_help=True, help="Data made by a language model: translate, check, report.")


@forge.command()
def translate(
    examples: Annotated[Path, typer.Argument(help="Records as JSONL.")],
    to: Annotated[str, typer.Option(help="Target language, such as zh.")],
    out: Annotated[Path, typer.Option(help="Folder for ledger, accepted and rejected records.")],
    model: Annotated[str, typer.Option()],
    base_url: Annotated[str, typer.Option(help="Of an OpenAI-compatible endpoint.")],
    prompt: Annotated[str, typer.Option(help="Name of a prompt template.")] = "translate",
) -> None:
    """Translate records through a language model; a killed run goes on where it was."""
    from ziya_visual.forge.translate import translate_file

    report = translate_file(examples, to=to, out=out, model=model, base_url=base_url, prompt=prompt)
    show({"records": report.records, "accepted": report.accepted, **report.rejected})


@forge.command()
def check(
    pairs: Annotated[Path, typer.Argument(help="JSONL of id, source, target.")],
    source_lang: Annotated[str, typer.Option("--from")],
    target_lang: Annotated[str, typer.Option("--to")],
    out: Annotated[Path, typer.Option(help="JSONL of id, ok, reasons.")],
) -> None:
    """Judge translation pairs from anywhere, without any language model."""
    from ziya_visual.forge.pairs import check_pairs

    summary = check_pairs(pairs, source_lang=source_lang, target_lang=target_lang, out=out)
    typer.echo(json.dumps(summary, ensure_ascii=False))


@forge.command()
def status(folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")]) -> None:
    """Say how far a forge run is."""
    from ziya_visual.forge.report import status as run

    typer.echo(json.dumps(run(folder), ensure_ascii=False))


@forge.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")]) -> None:
    """Write a page with what was accepted and rejected, and why."""
    from ziya_visual.forge.report import report as run

    typer.echo(str(run(folder)))
