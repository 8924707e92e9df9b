"""``ziya-visual forge``: data made by a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ziya_visual.cli.arguments import show

forge = typer.Typer(no_args_is_help=True, help="Data made by a language model: translate, instruct, check.")

Examples = Annotated[Path, typer.Argument(help="Records as JSONL.")]
To = Annotated[str, typer.Option(help="Target language, such as zh.")]
Out = Annotated[Path, typer.Option(help="Folder for ledger, accepted and rejected records.")]
Model = Annotated[str, typer.Option(help="The endpoint's name of the model.")]
BaseUrl = Annotated[
    list[str], typer.Option(help="Of an OpenAI-compatible endpoint; once more for one to fall back on.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight at once, at most.")]
Prices = Annotated[
    Path | None,
    typer.Option(help="YAML, 'model: {prompt: 0.15, completion: 0.6}': dollars per million tokens."),
]
Budget = Annotated[float | None, typer.Option(help="What the folder may cost in all; a hard cap.")]
Batch = Annotated[bool, typer.Option("--batch", help="Through the Batch API: cheaper, within a day.")]
RequestRate = Annotated[float | None, typer.Option(help="Requests a minute, at most.")]
TokenRate = Annotated[float | None, typer.Option(help="Tokens a minute, at most.")]
Timeout = Annotated[float, typer.Option(help="For one attempt, in seconds.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; send and write nothing.")]


@forge.command()
def translate(
    examples: Examples,
    to: To,
    out: Out,
    model: Model,
    base_url: BaseUrl,
    prompt: Annotated[str, typer.Option(help="Name of a prompt template, or a .jinja file.")] = "translate",
    texts_per_request: Annotated[int, typer.Option(min=1, help="Short texts sent together.")] = 6,
    glossary: Annotated[Path | None, typer.Option(help="YAML, 'source term: target term'.")] = None,
    shots: Annotated[
        Path | None, typer.Option("--examples", help="JSONL of source, target, put in context.")
    ] = None,
    extra_check: Annotated[
        list[str] | None,
        typer.Option(help="critic, back_translation or image: one more request a record."),
    ] = None,
    concurrency: Concurrency = 64,
    requests_per_minute: RequestRate = None,
    tokens_per_minute: TokenRate = None,
    timeout_seconds: Timeout = 120.0,
    prices: Prices = None,
    budget_usd: Budget = None,
    batch: Batch = False,
    dry_run: DryRun = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: partitions on Ray Data.")] = "local",
    partitions: Annotated[int, typer.Option(min=1, help="For --engine ray: ledgers side by side.")] = 8,
) -> None:
    """Translate records through a language model; a killed run goes on where it was."""
    from ziya_visual.forge.command import run_translate

    show(
        run_translate(
            examples,
            to=to,
            out=out,
            model=model,
            base_url=base_url,
            prompt=prompt,
            texts_per_request=texts_per_request,
            glossary=glossary,
            shots=shots,
            extra_checks=extra_check or [],
            prices=prices,
            budget_usd=budget_usd,
            use_batches=batch,
            dry_run=dry_run,
            partitions=partitions if engine == "ray" else None,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout_seconds=timeout_seconds,
        )
    )


@forge.command()
def instruct(
    examples: Examples,
    to: To,
    out: Out,
    model: Model,
    base_url: BaseUrl,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="conversation, detail, reasoning, grounded or false_premise; all of them unless given."
        ),
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Questions of a conversation.")] = 3,
    prompt: Annotated[str, typer.Option(help="Name of a prompt template, or a .jinja file.")] = "instruct",
    with_image: Annotated[
        bool, typer.Option("--with-image", help="Show the picture too: for endpoints that see.")
    ] = False,
    through: Annotated[
        str | None, typer.Option(help="Make them in this language first, such as en, and translate.")
    ] = None,
    concurrency: Concurrency = 64,
    requests_per_minute: RequestRate = None,
    tokens_per_minute: TokenRate = None,
    timeout_seconds: Timeout = 120.0,
    prices: Prices = None,
    budget_usd: Budget = None,
    batch: Batch = False,
    dry_run: DryRun = False,
) -> None:
    """Make dialogues of captions and boxes through a language model."""
    from ziya_visual.forge.command import run_instruct

    options: dict[str, Any] = {} if kind is None else {"kinds": kind}
    show(
        run_instruct(
            examples,
            lang=to,
            out=out,
            model=model,
            base_url=base_url,
            through=through,
            prices=prices,
            budget_usd=budget_usd,
            use_batches=batch,
            dry_run=dry_run,
            turns=turns,
            prompt=prompt,
            with_image=with_image,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout_seconds=timeout_seconds,
            **options,
        )
    )


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
def status(
    folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="A line a second while requests are left.")
    ] = False,
) -> None:
    """Say how far a forge run is."""
    from ziya_visual.forge.report import follow as watch
    from ziya_visual.forge.report import status as run

    for found in watch(folder) if follow else [run(folder)]:
        typer.echo(json.dumps(found, ensure_ascii=False))


@forge.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")]) -> None:
    """Write a page with what was accepted and rejected, and why."""
    from ziya_visual.forge.report import report as run

    typer.echo(str(run(folder)))
