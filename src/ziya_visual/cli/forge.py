"""``ziya-visual forge``: make data with a language model, and check it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ziya_visual.cli.arguments import show

if TYPE_CHECKING:
    from ziya_visual.forge.ask.endpoint import Sending

forge = typer.Typer(no_args_is_help=True, help="Make data with a language model: translate, instruct, check.")

Examples = Annotated[Path, typer.Argument(help="Records as JSONL.")]
To = Annotated[str, typer.Option(help="Target language, such as zh.")]
Out = Annotated[Path, typer.Option(help="Folder for the ledger and the accepted and rejected records.")]
Model = Annotated[str, typer.Option(help="Name of the model at the endpoint.")]
BaseUrl = Annotated[
    list[str], typer.Option(help="URL of an OpenAI-compatible endpoint; repeat it to name a fallback.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Maximum number of requests in flight.")]
Prices = Annotated[
    Path | None,
    typer.Option(help="YAML of dollars per million tokens, 'model: {prompt: 0.15, completion: 0.6}'."),
]
Budget = Annotated[float | None, typer.Option(help="Hard cap on what the folder may cost in total.")]
Batch = Annotated[bool, typer.Option("--batch", help="Use the Batch API: cheaper, done within a day.")]
RequestRate = Annotated[float | None, typer.Option(help="Maximum number of requests per minute.")]
TokenRate = Annotated[float | None, typer.Option(help="Maximum number of tokens per minute.")]
Timeout = Annotated[float, typer.Option(help="Seconds allowed for one attempt.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Estimate the cost; send and write nothing.")]


def _sending(options: dict[str, Any]) -> Sending:
    """Return the sending options among the arguments of a command."""
    from ziya_visual.forge.ask.endpoint import Sending
    from ziya_visual.forge.ask.limits import read_price

    names = {field.name for field in fields(Sending)} & options.keys()
    price = read_price(options["prices"], options["model"]) if options["prices"] else None
    values = {name: options[name] for name in names} | {"base_url": tuple(options["base_url"])}
    return Sending(**values, price=price)


@forge.command()
def translate(
    examples: Examples,
    to: To,
    out: Out,
    model: Model,
    base_url: BaseUrl,
    prompt: Annotated[str, typer.Option(help="Name of a prompt template, or a .jinja file.")] = "translate",
    texts_per_request: Annotated[int, typer.Option(min=1, help="Number of short texts in one request.")] = 6,
    glossary: Annotated[Path | None, typer.Option(help="YAML of terms, 'source term: target term'.")] = None,
    shots: Annotated[
        Path | None,
        typer.Option("--examples", help="JSONL of source and target, shown to the model as examples."),
    ] = None,
    extra_check: Annotated[
        list[str] | None,
        typer.Option(help="critic, back_translation or image; each costs one more request per record."),
    ] = None,
    concurrency: Concurrency = 64,
    requests_per_minute: RequestRate = None,
    tokens_per_minute: TokenRate = None,
    timeout_seconds: Timeout = 120.0,
    prices: Prices = None,
    budget_usd: Budget = None,
    use_batches: Batch = False,
    dry_run: DryRun = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray runs partitions on Ray Data.")
    ] = "local",
    partitions: Annotated[int, typer.Option(min=1, help="Number of parallel ledgers with --engine ray.")] = 8,
) -> None:
    """Translate records with a language model. A killed run resumes where it stopped."""
    sending = _sending(locals())
    from ziya_visual.forge.run import run_translate

    counts = run_translate(
        examples,
        to=to,
        out=out,
        sending=sending,
        prompt=prompt,
        texts_per_request=texts_per_request,
        glossary=glossary,
        shots=shots,
        extra_checks=extra_check or [],
        dry_run=dry_run,
        partitions=partitions if engine == "ray" else None,
    )
    show(counts)


@forge.command()
def instruct(
    examples: Examples,
    to: To,
    out: Out,
    model: Model,
    base_url: BaseUrl,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="conversation, detail, reasoning, grounded or false_premise; all by default."),
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Number of questions in a conversation.")] = 3,
    prompt: Annotated[str, typer.Option(help="Name of a prompt template, or a .jinja file.")] = "instruct",
    with_image: Annotated[
        bool, typer.Option("--with-image", help="Send the picture too, to an endpoint with vision.")
    ] = False,
    through: Annotated[
        str | None, typer.Option(help="Write in this language first, such as en, and then translate.")
    ] = None,
    concurrency: Concurrency = 64,
    requests_per_minute: RequestRate = None,
    tokens_per_minute: TokenRate = None,
    timeout_seconds: Timeout = 120.0,
    prices: Prices = None,
    budget_usd: Budget = None,
    use_batches: Batch = False,
    dry_run: DryRun = False,
) -> None:
    """Make dialogues from captions and boxes with a language model."""
    sending = _sending(locals())
    from ziya_visual.forge.run import run_instruct

    counts = run_instruct(
        examples,
        lang=to,
        out=out,
        sending=sending,
        kinds=kind,
        turns=turns,
        prompt=prompt,
        show_image=with_image,
        through=through,
        dry_run=dry_run,
    )
    show(counts)


@forge.command()
def check(
    pairs: Annotated[Path, typer.Argument(help="JSONL of id, source and target.")],
    source_lang: Annotated[str, typer.Option("--from", help="Source language.")],
    target_lang: Annotated[str, typer.Option("--to", help="Target language.")],
    out: Annotated[Path, typer.Option(help="JSONL of id, ok and reasons.")],
) -> None:
    """Check translation pairs from any source, without a language model."""
    from ziya_visual.forge.run import check_pairs

    summary = check_pairs(pairs, source_lang=source_lang, target_lang=target_lang, out=out)
    typer.echo(json.dumps(summary, ensure_ascii=False))


@forge.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Print a line per second while requests are left.")
    ] = False,
) -> None:
    """Report the progress of a forge run."""
    from ziya_visual.forge.report import follow as watch
    from ziya_visual.forge.report import status as run

    for counts in watch(folder) if follow else [run(folder)]:
        typer.echo(json.dumps(counts, ensure_ascii=False))


@forge.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a forge run.")]) -> None:
    """Write a page of the accepted and rejected records, with the reasons."""
    from ziya_visual.forge.report import report as run

    typer.echo(str(run(folder)))
