"""The model card: what the folder is, how it was checked, and the numbers of ``results.json``, no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, write_text

RESULTS = "results.json"
PACKAGES = ("ziya-visual", "torch", "transformers")
_FIELDS = {"model", "split", "lang", "task", "name", "value", "low", "high", "n"}


def write_card(folder: Path, *, name: str, checkpoint: Path, parity: Mapping[str, Any], command: str) -> None:
    """Write ``README.md``.

    Args:
        folder: the exported folder, complete but for this.
        name: the title.
        checkpoint: where it came from; ``results.json`` is looked for in there and then in its parent.
        parity: the content of ``parity.json``.
        command: what exported it.

    Raises:
        DataError: there is a ``results.json``, and it is of another form.
    """
    config = read_json(folder / "config.json")
    results = _results(checkpoint)
    retrieval = config["architectures"] == ["Blip2ForImageTextRetrieval"]
    rows = _own(results["metrics"], checkpoint.name) if results else []
    rows = [row for row in rows if row["task"] == "retrieval" or not retrieval]  # it writes no answers
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("card.md.jinja").render(
        name=name,
        config=config,
        retrieval=retrieval,
        parity=parity,
        results=results,
        table=table(rows),
        columns=_columns(rows),
        languages=sorted({row["lang"] for row in rows}),
        command=command,
        versions={package: version(package) for package in PACKAGES},
    )
    write_text(folder / "README.md", text)


def _results(checkpoint: Path) -> dict[str, Any] | None:
    for path in (checkpoint / RESULTS, checkpoint.resolve().parent / RESULTS):
        if path.is_file():
            content = read_json(path)
            rows = content.get("metrics") if isinstance(content, dict) else None
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and r.keys() >= _FIELDS for r in rows
            ):
                raise DataError(f"{path}: is no results.json; expected an object with a list 'metrics'")
            return dict(content)
    return None


def _own(rows: Sequence[Mapping[str, Any]], checkpoint: str) -> list[Mapping[str, Any]]:
    """The rows of this checkpoint: those of the model that its folder is named after, else ``chat``'s."""
    models = {row["model"] for row in rows}
    mine = checkpoint if checkpoint in models else "chat"
    return [row for row in rows if row["model"] == mine]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(split, language) in the order measured."""
    return list(dict.fromkeys((row["split"], row["lang"]) for row in rows))


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By task and metric, a cell for each of the columns: value, 95 % interval, number of examples."""
    columns = _columns(rows)
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(f"{row['task']} {row['name']}", ["" for _ in columns])
        said = f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}, n = {row['n']})"
        line[columns.index((row["split"], row["lang"]))] = said
    return cells
