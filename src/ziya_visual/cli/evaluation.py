"""Commands that measure: evaluation, scores from files, judging and its table."""

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
        str, typer.Argument(help="Folder or hub id, ours or any image-text model's, or MODEL@URL.")
    ],
    suite: Annotated[
        list[str],
        typer.Option(help="scenes, scenes:en,es, paper-en, paper-zh, qa90, or a file; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and predictions.")],
    data: Annotated[Path, typer.Option(help="Folder with your copies of the data sets.")] = Path("data/eval"),
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to an endpoint in flight at once.")] = 16,
    dtype: Weights = "auto",
    seed: Seed = 0,
) -> None:
    """Put suites of questions, captions and retrieval to a model; a killed run goes on where it was."""
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
        str, typer.Argument(help="caption, vqa, gqa, pope, scienceqa, mcq, retrieval, translation, judge")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
    references: File = None,
    predictions: File = None,
    annotations: File = None,
    questions: File = None,
    problems: File = None,
    embeddings: File = None,
    similarity: File = None,
    rerank: File = None,
    reviews: File = None,
    top_k: Annotated[int | None, typer.Option(help="How many of each row and column --rerank ranks.")] = None,
    lang: Annotated[str | None, typer.Option(help="en, zh ...")] = None,
    segmenter: Annotated[str | None, typer.Option(help="pre, ptb, jieba, char or all")] = None,
    rule: Annotated[
        str | None, typer.Option(help="vqav2, evalai, lavis, zh; for gqa: exact, llava, lavis")
    ] = None,
    duplicates: Annotated[str | None, typer.Option(help="refuse, first or last")] = None,
    stored: Annotated[bool | None, typer.Option("--stored", help="judge: use the rows' own scores")] = None,
    per_item: Annotated[
        bool, typer.Option("--per-item", help="Write each item's scores to --out too.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two systems, paired: predictions, or files of --out."),
    ] = None,
    submission: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="vizwiz|vqav2 OUT", help="Write the upload file of vqa's raw answers."),
    ] = None,
) -> None:
    """Score predictions of any system from files, by the official rules."""
    options = {name: value for name, value in locals().items() if name not in ("form", "out")}
    if per_item and out is None:
        raise ConfigError("--per-item writes to the file of --out, which is not given")
    from ziya_visual.eval.score.run import run

    result = run(form, command=_typed(), **options)
    if out is not None:
        write_json(out, result)
    show(result["scores"])
    for group, found in (("failures", result["failures"]), ("not computed", result["card"]["not_computed"])):
        show({f"{group}/{name}": value for name, value in found.items()})
    notes = result["card"]["notes"]
    warn([note for note in (notes.get("withheld"), *notes.get("warnings", ())) if note])


@measure.command()
def reproduce(card: Annotated[Path, typer.Argument(help="A file that score --out wrote.")]) -> None:
    """Score the files of a card again, and say whether the numbers are the same."""
    from ziya_visual.eval.score.run import reproduce as run

    result = run(card)
    if not result["equal"]:
        raise DataError(f"{card}: other scores now, [then, now]: {json.dumps(result['different'])[:300]}")
    show(result["scores"])


@measure.command()
def judge(
    questions: Annotated[Path, typer.Option(help="LLaVA or qa90 JSONL, MM-Vet JSON, TouchStone TSV ...")],
    answers: Annotated[list[Path], typer.Option(help="Of a model; once for each model.")],
    protocol: Annotated[str, typer.Option(help="relative, pairwise or rubric")],
    judge: Annotated[str, typer.Option(help="MODEL@URL of an OpenAI-compatible endpoint, or rule.")],
    out: Annotated[Path, typer.Option(help="Folder for ledger, reviews.jsonl and judge.json.")],
    reference: Annotated[Path | None, typer.Option(help="Answers that count as 100 %.")] = None,
    context: Annotated[Path | None, typer.Option(help="Captions and boxes by picture.")] = None,
    rules: Annotated[Path | None, typer.Option(help="LLaVA's rule file, instead of our prompts.")] = None,
    images: Annotated[Path | None, typer.Option(help="Pictures, for a judge that sees them.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Ask everything so often.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at once.")] = 8,
) -> None:
    """Let a language model judge answers; a killed run goes on where it was."""
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
    """Rank models by what judges said, with intervals; every verdict can be opened."""
    from ziya_visual.eval.judge.leaderboard import leaderboard as run

    for judged in run(folders, out=out, seed=seed)["judges"]:
        typer.echo(f"{judged['judge']}, {judged['protocol']}: {judged['withheld'] or 'ranked'}")
        show({row["model"]: row["rating"] for row in judged["tables"][0]["rows"]} if judged["tables"] else {})
        warn(judged["warnings"])
    typer.echo(str(out / "leaderboard.html"))


def _typed() -> str:
    return shlex.join(["ziya-visual", *sys.argv[1:]])
