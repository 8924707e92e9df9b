"""The commands that measure: evaluate a model, score files, judge answers, rank judged models."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ziya_visual.cli.arguments import Seed, Weights, show, warn
from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import write_json

measure = typer.Typer()

File = Annotated[Path | None, typer.Option()]


@measure.command("eval")
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder or Hub id of any image-text model, or MODEL@URL of an endpoint.")
    ],
    suite: Annotated[
        list[str], typer.Option(help="scenes, scenes:en,es, paper-en, paper-zh, qa90, or a file; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and the predictions.")],
    data: Annotated[Path, typer.Option(help="Folder with your copies of the published datasets.")] = Path(
        "data/eval"
    ),
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight to an endpoint.")] = 16,
    dtype: Weights = "auto",
    seed: Seed = 0,
) -> None:
    """Evaluate a model on suites of questions, captions and retrieval. A killed run resumes."""
    from ziya_visual.eval.run import run_suite

    content = run_suite(
        checkpoint, *suite, out=out, data=data, seed=seed, concurrency=concurrency, dtype=dtype
    )
    if int(os.environ.get("RANK", "0")) == 0:
        rows, card = content["metrics"], content["card"]
        show({f"{r['split']}/{r['lang']}/{r['task']}/{r['name']}": r["value"] for r in rows})
        for where, counts in card["failures"].items():
            show({f"failures/{where}/{reason}": count for reason, count in counts.items()})
        show({f"written/{number}": path for number, path in enumerate(card["files"], start=1)})


@measure.command()
def score(
    form: Annotated[
        str, typer.Argument(help="caption, vqa, gqa, pope, scienceqa, mcq, retrieval, translation or judge.")
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file for the scores.")] = None,
    references: File = None,
    predictions: File = None,
    annotations: File = None,
    questions: File = None,
    problems: File = None,
    embeddings: File = None,
    similarity: File = None,
    rerank: File = None,
    reviews: File = None,
    top_k: Annotated[
        int | None, typer.Option(help="Number of candidates per row and column that --rerank ranks.")
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Language: en, zh ...")] = None,
    segmenter: Annotated[str | None, typer.Option(help="pre, ptb, jieba, char or all.")] = None,
    rule: Annotated[
        str | None, typer.Option(help="vqav2, evalai, lavis or zh; for gqa exact, llava or lavis.")
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option(help="What to do with duplicate ids: refuse, first or last.")
    ] = None,
    stored: Annotated[
        bool | None, typer.Option("--stored", help="judge: use the scores stored in the rows.")
    ] = None,
    per_item: Annotated[
        bool, typer.Option("--per-item", help="Also write each item's scores to --out.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Compare two systems item by item: their predictions, or --out files."
        ),
    ] = None,
    submission: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="vizwiz|vqav2 OUT", help="Write raw VQA answers in a server's upload format."),
    ] = None,
) -> None:
    """Score the prediction files of any system by the official rules."""
    options = {name: value for name, value in locals().items() if name not in ("form", "out")}
    if per_item and out is None:
        raise ConfigError("--per-item writes to the file of --out; give --out as well")
    from ziya_visual.eval.score import compute

    result = compute(form, command=shlex.join(["ziya-visual", *sys.argv[1:]]), **options)
    if out is not None:
        write_json(out, result)
    show(result["scores"])
    for group, values in (("failures", result["failures"]), ("not computed", result["card"]["not_computed"])):
        show({f"{group}/{name}": value for name, value in values.items()})
    notes = result["card"]["notes"]
    warn([note for note in (notes.get("withheld"), *notes.get("warnings", ())) if note])


@measure.command()
def reproduce(card: Annotated[Path, typer.Argument(help="File that score --out wrote.")]) -> None:
    """Score the files of a card again and check that the numbers are equal."""
    from ziya_visual.eval.score import reproduce as run

    result = run(card)
    if not result["equal"]:
        raise DataError(f"{card}: the scores differ, as [then, now]: {json.dumps(result['different'])[:300]}")
    show(result["scores"])


@measure.command()
def judge(
    questions: Annotated[
        Path, typer.Option(help="Questions: LLaVA or qa90 JSONL, MM-Vet JSON, TouchStone TSV ...")
    ],
    answers: Annotated[list[Path], typer.Option(help="Answers of one model; repeat for each model.")],
    protocol: Annotated[str, typer.Option(help="relative, pairwise or rubric.")],
    judge: Annotated[str, typer.Option(help="MODEL@URL of an OpenAI-compatible endpoint, or rule.")],
    out: Annotated[Path, typer.Option(help="Folder for the ledger, reviews.jsonl and judge.json.")],
    reference: Annotated[Path | None, typer.Option(help="Reference answers, which count as 100 %.")] = None,
    context: Annotated[Path | None, typer.Option(help="Captions and boxes of each picture.")] = None,
    rules: Annotated[Path | None, typer.Option(help="LLaVA rule file to use instead of our prompts.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures, for a judge with vision.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Ask each question N times.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
) -> None:
    """Let a language model judge answers. A killed run resumes where it stopped."""
    options = dict(locals())
    from ziya_visual.eval.judge.run import judge as run

    card = run(**options)
    show({name: card[name] for name in ("questions", "reviews", "failures", "sent") if name in card})
    warn(card["warnings"])


@measure.command()
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders of judge runs.")],
    out: Annotated[Path, typer.Option(help="Folder for leaderboard.html and .json.")] = Path(
        "runs/leaderboard"
    ),
    seed: Seed = 0,
) -> None:
    """Rank models by their verdicts, with intervals, on a page that shows every verdict."""
    from ziya_visual.eval.judge.leaderboard import leaderboard as run

    for entry in run(folders, out=out, seed=seed)["judges"]:
        typer.echo(f"{entry['judge']}, {entry['protocol']}: {entry['withheld'] or 'ranked'}")
        show({row["model"]: row["rating"] for row in entry["tables"][0]["rows"]} if entry["tables"] else {})
        warn(entry["warnings"])
    typer.echo(str(out / "leaderboard.html"))
