"""``ziya-visual data``: import, check, look at, split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ziya_visual.cli.arguments import show
from ziya_visual.core.errors import ConfigError

data = typer.Typer(no_args_is_help=True, help="Make, read, check, look at and split datasets.")

Dataset = Annotated[Path, typer.Argument(help="A dataset's folder or file, or pictures with a captions.csv.")]


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
    from ziya_visual.data.importing import import_dataset

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
