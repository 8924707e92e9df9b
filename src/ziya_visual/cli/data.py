"""``ziya-visual data``: import, check, look at, split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ziya_visual.cli.arguments import Seed, show
from ziya_visual.core.errors import ConfigError

data = typer.Typer(no_args_is_help=True, help="Make, read, check, look at and split datasets.")

_SHOWN = 5  # rejects

Dataset = Annotated[Path, typer.Argument(help="A dataset's folder or file, or pictures with a captions.csv.")]


@data.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder for images/ and records.jsonl.")],
    images: Annotated[int, typer.Option(min=1, help="So many pictures.")] = 3000,
    questions: Annotated[int, typer.Option(min=0, help="About each picture.")] = 8,
    dialogues: Annotated[int, typer.Option(min=0, help="Pictures that have a dialogue too.")] = 600,
    langs: Annotated[str, typer.Option(help="Of the records, with commas, such as en,es.")] = "en",
    seed: Seed = 0,
) -> None:
    """Draw the miniature's training pictures and write their records, as the quickstart does in English."""
    from ziya_visual.core.files import write_records
    from ziya_visual.scenes.dataset import write_training

    made = write_training(
        out,
        seed=seed,
        images=images,
        questions_per_image=questions,
        dialogues=dialogues,
        langs=langs.split(","),
    )
    show({"records": write_records(out / "records.jsonl", made)})


@data.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="coco, karpathy, vqav2, llava ... (docs/data.md has all)")],
    path: Annotated[Path, typer.Argument(help="The file or folder that the format's row in the docs names.")],
    out: Annotated[Path, typer.Option(help="Folder for records, rejects.jsonl and manifest.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, if not beside PATH.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="vqav2, okvqa: the file of the answers.")] = None,
    lang: Annotated[str | None, typer.Option(help="Of the texts, if not the format's own.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test ...")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many rows.")] = None,
    columns: Annotated[str | None, typer.Option(help="hub: image=img,text=caption ...")] = None,
    form: Annotated[
        Literal["parquet", "tar", "jsonl"], typer.Option(help="jsonl leaves pictures where they are.")
    ] = "parquet",
) -> None:
    """Read other people's files; every row becomes a record or a reject with its reason."""
    from ziya_visual.data.tools.importing import import_dataset

    made = import_dataset(
        name,
        path,
        out=out,
        form=form,
        images=images,
        annotations=annotations,
        lang=lang,
        split=split,
        limit=limit,
        columns=_pairs(columns),
    )
    show({"records": made["records"], "rejects": made["rejects"], **made["by_task_and_lang"]})


def _pairs(columns: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",")] if columns else []
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise ConfigError(f"--columns {columns}: expected pairs such as image=img,text=caption")
    return {name: column for name, _, column in pairs}


@data.command()
def check(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="Folder for rejects.jsonl, and with --fix the dataset.")] = Path(
        "runs/check"
    ),
    fix: Annotated[
        bool, typer.Option("--fix", help="Write the records that are good or can be mended.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="An evaluation's dataset, whose pictures are rejected.")
    ] = None,
) -> None:
    """Look at every record and decode every picture; exit code 1 where any is rejected and not taken out."""
    from ziya_visual.data.tools.check import check_dataset

    report = check_dataset(path, out=out, fix=fix, against=against)
    show({"records": report.records, "rejects": len(report.rejects), "fixes": len(report.fixes)})
    for row in report.rejects[:_SHOWN]:
        typer.echo(f"{row['where']} {row['id']}: {row['reason']}")
    if report.rejects:
        typer.echo(str(out / "rejects.jsonl"))
    raise typer.Exit(1 if report.rejects and not fix else 0)


@data.command()
def stats(
    path: Dataset,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Count records by task, language, source and split; pictures, turns, lengths, answers."""
    from ziya_visual.data.tools.stats import dataset_stats

    found = dataset_stats(path)
    if json_output:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        show({name: value for name, value in found.items() if value not in ({}, {"": found["records"]})})


@data.command()
def inspect(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("runs/inspect.html"),
    count: Annotated[int, typer.Option(min=1, help="So many pictures, drawn by the seed.")] = 200,
    seed: Seed = 0,
) -> None:
    """Write a page of pictures with all their texts, filtered by task, language, source and words."""
    from ziya_visual.data.tools.inspect import write_sheet

    write_sheet(path, out, count=count, seed=seed)
    typer.echo(str(out))


@data.command()
def split(
    path: Dataset,
    out: Annotated[Path, typer.Option(help="Folder for train/ and heldout/.")],
    heldout: Annotated[float, typer.Option(min=0, max=1, help="The part of the pictures held out.")] = 0.1,
    seed: Seed = 0,
) -> None:
    """Split a dataset by picture: all texts of one, of its copies and near copies, lie on one side."""
    from ziya_visual.data.tools.split import split_dataset

    made = split_dataset(path, out=out, heldout=heldout, seed=seed)
    show({side: one["records"] for side, one in made.items()})
