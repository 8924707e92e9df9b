"""``ziya-visual data``: make, import, check, inspect and split datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ziya_visual.cli.arguments import Seed, show
from ziya_visual.core.errors import ConfigError

data = typer.Typer(no_args_is_help=True, help="Make, import, check, inspect and split datasets.")

_SHOWN_REJECTS = 5

Dataset = Annotated[
    Path, typer.Argument(help="Dataset folder or file, or a folder of pictures with a captions.csv.")
]


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
