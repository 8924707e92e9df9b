"""The commands that make data.

``ziya-visual data`` draws, imports, checks, inspects and splits datasets; ``ziya-visual forge`` makes records
with a language model and checks them.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ziya_visual.cli.arguments import Seed, show
from ziya_visual.core.errors import ConfigError

if TYPE_CHECKING:
    from ziya_visual.forge.ask.endpoint import Sending

data = typer.Typer(no_args_is_help=True, help="Make, import, check, inspect and split datasets.")
forge = typer.Typer(no_args_is_help=True, help="Make data with a language model: translate, instruct, check.")

_SHOWN_REJECTS = 5

Dataset = Annotated[
    Path, typer.Argument(help="Dataset folder or file, or a folder of pictures with a captions.csv.")
]
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


@data.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder for images/ and records.jsonl.")],
    images: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 3000,
    questions: Annotated[int, typer.Option(min=0, help="Questions about each picture.")] = 8,
    dialogues: Annotated[int, typer.Option(min=0, help="Number of pictures that also get a dialogue.")] = 600,
    langs: Annotated[
        str, typer.Option(help="Languages of the records, separated by commas, such as en,es.")
    ] = "en",
    seed: Seed = 0,
) -> None:
    """Draw the training pictures of the quickstart and write their records, in any of its languages."""
    from ziya_visual.core.files import write_records
    from ziya_visual.scenes.dataset import write_training

    records = write_training(
        out,
        seed=seed,
        images=images,
        questions_per_image=questions,
        dialogues=dialogues,
        langs=langs.split(","),
    )
    show({"records": write_records(out / "records.jsonl", records)})


@data.command("import")
def import_(
    name: Annotated[
        str, typer.Argument(help="Format: coco, karpathy, vqav2, llava ... (docs/data.md lists all).")
    ],
    path: Annotated[Path, typer.Argument(help="File or folder, as docs/data.md names it for the format.")],
    out: Annotated[Path, typer.Option(help="Folder for records, rejects.jsonl and manifest.json.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, if they are not beside PATH.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="File of the answers, for vqav2 and okvqa.")
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Language of the texts, if not the format's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Split: train, val, test ...")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of a Hub dataset: image=img,text=caption ...")
    ] = None,
    form: Annotated[
        Literal["parquet", "tar", "jsonl"],
        typer.Option(help="Output format; jsonl leaves the pictures where they are."),
    ] = "parquet",
) -> None:
    """Import published files. Every row becomes a record, or a reject with its reason."""
    options = dict(locals()) | {"columns": _parse_columns(columns)}
    from ziya_visual.data.tools.importing import import_dataset

    manifest = import_dataset(**options)
    show({"records": manifest["records"], "rejects": manifest["rejects"], **manifest["by_task_and_lang"]})


def _parse_columns(columns: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",")] if columns else []
    if not all(map(all, pairs)):
        raise ConfigError(f"--columns {columns}: expected pairs such as image=img,text=caption")
    return {name: column for name, _, column in pairs}


@data.command()
def check(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="Folder for rejects.jsonl and, with --fix, the dataset.")] = Path(
        "runs/check"
    ),
    fix: Annotated[
        bool, typer.Option("--fix", help="Write the records that are valid or can be repaired.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="Evaluation dataset; records that share its pictures are rejected.")
    ] = None,
) -> None:
    """Check every record and decode every picture. The exit code is 1 if rejects remain in the dataset."""
    from ziya_visual.data.tools.check import check_dataset

    report = check_dataset(path, out=out, fix=fix, against=against)
    show({"records": report.records, "rejects": len(report.rejects), "fixes": len(report.fixes)})
    for row in report.rejects[:_SHOWN_REJECTS]:
        typer.echo(f"{row['where']} {row['id']}: {row['reason']}")
    if report.rejects:
        typer.echo(str(out / "rejects.jsonl"))
    raise typer.Exit(1 if report.rejects and not fix else 0)


@data.command()
def stats(
    path: Dataset, json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Count records by task, language, source and split, and their pictures, turns, lengths and answers."""
    from ziya_visual.data.tools.inspect import dataset_stats

    counts = dataset_stats(path)
    if json_output:
        typer.echo(json.dumps(counts, ensure_ascii=False))
    else:
        show({name: value for name, value in counts.items() if value not in ({}, {"": counts["records"]})})


@data.command()
def inspect(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("runs/inspect.html"),
    count: Annotated[int, typer.Option(min=1, help="Number of pictures, sampled with the seed.")] = 200,
    seed: Seed = 0,
) -> None:
    """Write a page of pictures and texts that can be filtered by task, language, source and words."""
    from ziya_visual.data.tools.inspect import write_page

    write_page(path, out, count=count, seed=seed)
    typer.echo(str(out))


@data.command()
def split(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="Folder for train/ and heldout/.")],
    heldout: Annotated[float, typer.Option(min=0, max=1, help="Fraction of the pictures to hold out.")] = 0.1,
    seed: Seed = 0,
) -> None:
    """Split a dataset by picture, with all texts, copies and near copies of a picture on one side."""
    from ziya_visual.data.tools.split import split_dataset

    manifests = split_dataset(path, out=out, heldout=heldout, seed=seed)
    show({side: manifest["records"] for side, manifest in manifests.items()})


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


@forge.command("check")
def check_translations(
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
