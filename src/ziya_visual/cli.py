"""The command line: each command parses and calls one function, imported only then."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ziya_visual import __version__
from ziya_visual.core import log
from ziya_visual.core.errors import ConfigError, DataError, ZiyaError
from ziya_visual.core.io import write_json

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make and use bilingual vision-language models."
)
forge = typer.Typer(no_args_is_help=True, help="Data made by a language model: translate, check, report.")
app.add_typer(forge, name="forge")

Seed = Annotated[int, typer.Option(help="Of everything that is drawn or initialised.")]
Host = Annotated[str, typer.Option(help="Address to listen on; a public one needs a key.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder.")]
File = Annotated[Path | None, typer.Option()]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show more, and a traceback where it fails.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Make and use bilingual vision-language models."""
    log.setup(debug=debug)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    from_scratch: Annotated[bool, typer.Option(help="Pre-train the tiny ViT and LM too.")] = False,
) -> None:
    """Run the whole system in miniature: draw, forge, train, evaluate, report."""
    from ziya_visual.quickstart import quickstart as run

    run(out, seed=seed, from_scratch=from_scratch)


@app.command("pretrain-parts")
def pretrain_parts(
    out: Annotated[Path, typer.Option(help="Folder for vit/, lm/ and card.json.")], seed: Seed = 0
) -> None:
    """Make the tiny ViT and LM that the quickstart starts from."""
    from ziya_visual.train.parts import pretrain_parts as run

    run(out, seed=seed)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="key=value, such as stages.0.steps=100")] = None,
) -> None:
    """Run the stages of a recipe; a killed run goes on where it was."""
    from ziya_visual.core.config import load_recipe
    from ziya_visual.train.run import run_recipe

    typer.echo(str(run_recipe(load_recipe(recipe, changes or ()))))


@app.command()
def doctor(
    target: Annotated[
        Path | None, typer.Argument(help="A recipe file or a checkpoint folder; without, this machine.")
    ] = None,
    changes: Annotated[list[str] | None, typer.Argument(help="key=value on the recipe, as for train")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs to plan the recipe for.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object, sizes in bytes.")] = False,
) -> None:
    """Say what is here, what fits, and what to change."""
    from ziya_visual.train.doctor import doctor as run

    raise typer.Exit(run(target, changes or (), gpus=gpus, json_output=json_output))


@app.command()
def chat(
    checkpoint: Checkpoint,
    image: Annotated[Path | None, typer.Option(help="The picture to talk about.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON line an answer.")] = False,
) -> None:
    """Talk about a picture in the terminal, or answer the questions of a pipe, one a line."""
    from ziya_visual.serve.terminal import chat as run

    run(checkpoint, image=image, json_output=json_output)


@app.command()
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key.")] = None,
) -> None:
    """Serve a checkpoint through an OpenAI-compatible API."""
    from ziya_visual.serve.api import serve as run

    run(checkpoint, host=host, port=port, api_key_env=api_key_env)


@app.command()
def web(checkpoint: Checkpoint, host: Host = "127.0.0.1", port: Port = 7860) -> None:
    """Open a web page to talk about pictures."""
    from ziya_visual.serve.web import web as run

    run(checkpoint, host=host, port=port)


@app.command("eval")
def evaluate(
    checkpoint: Checkpoint,
    suite: Annotated[Path, typer.Option(help="JSONL of vqa and caption records with pictures by path.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and predictions.")],
    seed: Seed = 0,
) -> None:
    """Put a suite of questions, captions and retrieval to a checkpoint."""
    from ziya_visual.eval.suite_run import run_suite

    rows = run_suite(checkpoint, suite, out=out, seed=seed)["metrics"]
    _show({f"{r['split']}/{r['lang']}/{r['task']}/{r['name']}": r["value"] for r in rows})


@app.command()
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
    from ziya_visual.eval.score import run

    result = run(form, command=_typed(), **options)
    if out is not None:
        write_json(out, result)
    _show(result["scores"])
    for group, found in (("failures", result["failures"]), ("not computed", result["card"]["not_computed"])):
        _show({f"{group}/{name}": value for name, value in found.items()})
    notes = result["card"]["notes"]
    _warn([note for note in (notes.get("withheld"), *notes.get("warnings", ())) if note])


@app.command()
def reproduce(card: Annotated[Path, typer.Argument(help="A file that score --out wrote.")]) -> None:
    """Score the files of a card again, and say whether the numbers are the same."""
    from ziya_visual.eval.score import reproduce as run

    result = run(card)
    if not result["equal"]:
        raise DataError(f"{card}: other scores now, [then, now]: {json.dumps(result['different'])[:300]}")
    _show(result["scores"])


@app.command()
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
    from ziya_visual.eval.judge import judge as run

    card = run(**options)
    _show({name: card[name] for name in ("questions", "reviews", "failures", "sent") if name in card})
    _warn(card["warnings"])


@app.command()
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders of judge runs.")],
    out: Annotated[Path, typer.Option(help="Folder for leaderboard.html and .json.")] = Path(
        "runs/leaderboard"
    ),
    seed: Seed = 0,
) -> None:
    """Rank models by what judges said, with intervals; every verdict can be opened."""
    from ziya_visual.eval.leaderboard import leaderboard as run

    for judged in run(folders, out=out, seed=seed)["judges"]:
        typer.echo(f"{judged['judge']}, {judged['protocol']}: {judged['withheld'] or 'ranked'}")
        _show(
            {row["model"]: row["rating"] for row in judged["tables"][0]["rows"]} if judged["tables"] else {}
        )
        _warn(judged["warnings"])
    typer.echo(str(out / "leaderboard.html"))


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
    _show({"records": report.records, "accepted": report.accepted, **report.rejected})


@forge.command()
def check(
    pairs: Annotated[Path, typer.Argument(help="JSONL of id, source, target.")],
    source_lang: Annotated[str, typer.Option("--from")],
    target_lang: Annotated[str, typer.Option("--to")],
    out: Annotated[Path, typer.Option(help="JSONL of id, ok, reasons.")],
) -> None:
    """Judge translation pairs from anywhere, without any language model."""
    from ziya_visual.forge.checks import check_pairs

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


def _typed() -> str:
    return shlex.join(["ziya-visual", *sys.argv[1:]])


def _show(values: dict[str, Any]) -> None:
    for name, value in values.items():
        typer.echo(f"{name:32} {value:.4f}" if isinstance(value, float) else f"{name:32} {value}")


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        typer.echo(f"warning: {sentence}", err=True)


def main() -> None:
    """Run a command; an error is one readable line and a non-zero exit code.

    2: something to be mended by the user; 1: a fault of ours; 130: interrupted.
    """
    debug = "--debug" in sys.argv
    try:
        app()
    except ZiyaError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        said = " ".join(str(error).split())[:200]
        _fail(f"{type(error).__name__}: {said} (a fault of ours; --debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
