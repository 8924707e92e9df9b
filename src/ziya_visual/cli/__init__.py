"""The command line: each command parses and calls one function, imported only then."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from ziya_visual import __version__
from ziya_visual.cli.arguments import Checkpoint, Seed, Weights, show
from ziya_visual.cli.data import data
from ziya_visual.cli.evaluation import measure
from ziya_visual.cli.forge import forge
from ziya_visual.core import log
from ziya_visual.core.errors import ZiyaError, one_line

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make and use bilingual vision-language models."
)
app.add_typer(measure)
app.add_typer(forge, name="forge")
app.add_typer(data, name="data")

Host = Annotated[str, typer.Option(help="Address to listen on; a public one needs a key.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable with the key.")]


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


@app.command()
def init(
    llm: Annotated[str, typer.Option(help="Folder or hub id of any causal language model.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint folder.")],
    bridge: Annotated[
        str | None, typer.Option(help="Folder or hub id: BLIP-2, InstructBLIP, Ziya, or one of ours.")
    ] = None,
    vision_config: Annotated[Path | None, typer.Option(help="Without a bridge: JSON of the new ViT.")] = None,
    qformer_config: Annotated[
        Path | None, typer.Option(help="Without a bridge: JSON of the new Q-Former.")
    ] = None,
    qformer_tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of a tokenizer for the Q-Former's text side.")
    ] = None,
    instruction_aware: Annotated[
        bool, typer.Option("--instruction-aware", help="The Q-Former reads the question: InstructBLIP.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Compose a checkpoint: vision and Q-Former of one, the language model of another."""
    options = dict(locals())
    from ziya_visual.model.build.init import init as run

    show(run(**options))


@app.command("apply-delta")
def apply_delta(
    base: Annotated[str, typer.Option(help="Folder or hub id of the model below.")],
    delta: Annotated[str, typer.Option(help="Folder or hub id of the difference.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
) -> None:
    """Make a language model whole that was released as its difference from another."""
    from ziya_visual.model.build.language_model import apply_delta as run

    show(run(base=base, delta=delta, out=out))


@app.command("pretrain-parts")
def pretrain_parts(
    out: Annotated[Path, typer.Option(help="Folder for vit/, lm/ and card.json.")], seed: Seed = 0
) -> None:
    """Make the tiny ViT and LM that the quickstart starts from."""
    from ziya_visual.train.pretrain.shipped import pretrain_parts as run

    run(out, seed=seed)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="key=value, such as stages.0.steps=100")] = None,
    stage: Annotated[str | None, typer.Option(help="Stop when this stage is done.")] = None,
) -> None:
    """Run the stages of a recipe; a killed run goes on where it was."""
    from ziya_visual.core.recipe import load_recipe
    from ziya_visual.train.run import run_recipe

    made = load_recipe(recipe, changes or ())
    typer.echo(str(run_recipe(made if stage is None else made.until(stage))))


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
    from ziya_visual.doctor import doctor as run

    raise typer.Exit(run(target, changes or (), gpus=gpus, json_output=json_output))


@app.command()
def export(
    checkpoint: Checkpoint,
    to: Annotated[Path, typer.Option(help="The new folder; an earlier export there is replaced.")],
    quantize: Annotated[
        Literal["int8", "int4"] | None, typer.Option(help="The language model's linear layers, by torchao.")
    ] = None,
    retrieval: Annotated[bool, typer.Option(help="For Blip2ForImageTextRetrieval.")] = False,
    push: Annotated[
        str | None,
        typer.Option(help="Upload to owner/name, made private if new; the token is HF_TOKEN's."),
    ] = None,
) -> None:
    """Write a stock checkpoint with a model card, its logits compared with ours."""
    from ziya_visual.model.publish.export import export as run

    typer.echo(str(run(checkpoint, to=to, quantize=quantize, retrieval=retrieval, push=push)))


@app.command()
def chat(
    checkpoint: Checkpoint,
    image: Annotated[Path | None, typer.Option(help="The picture to talk about.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON line an answer.")] = False,
    dtype: Weights = "auto",
) -> None:
    """Talk about a picture in the terminal, or answer the questions of a pipe, one a line."""
    from ziya_visual.serve.terminal import chat as run

    run(checkpoint, image=image, json_output=json_output, dtype=dtype)


@app.command()
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_env: KeyEnv = None,
    allow_image_hosts: Annotated[
        str | None, typer.Option(help="Fetch pictures from these hosts, with commas; else from none.")
    ] = None,
    dtype: Weights = "auto",
) -> None:
    """Serve a checkpoint through an OpenAI-compatible API."""
    from ziya_visual.serve.server import serve as run

    hosts = allow_image_hosts.split(",") if allow_image_hosts else ()
    run(checkpoint, host=host, port=port, api_key_env=api_key_env, image_hosts=hosts, dtype=dtype)


@app.command()
def web(
    checkpoint: Checkpoint,
    against: Annotated[Path | None, typer.Option(help="A second checkpoint, to vote between them.")] = None,
    votes: Annotated[Path, typer.Option(help="Folder of the votes, for leaderboard.")] = Path("runs/votes"),
    host: Host = "127.0.0.1",
    port: Port = 7860,
    api_key_env: KeyEnv = None,
    dtype: Weights = "auto",
) -> None:
    """Open a web page to talk about pictures."""
    from ziya_visual.serve.web import web as run

    run(
        checkpoint,
        against=against,
        votes=votes,
        host=host,
        port=port,
        api_key_env=api_key_env,
        dtype=dtype,
    )


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Pictures, in it and below it.")],
    model: Annotated[Path, typer.Option(help="A checkpoint folder.")],
) -> None:
    """Make the pictures of a folder ready for find; what did not change is kept."""
    from ziya_visual.serve.search import index_folder

    typer.echo(f"{len(index_folder(folder, model).names)} pictures")


@app.command()
def find(
    text: Annotated[str, typer.Argument(help="What they show, such as 一只猫.")],
    model: Annotated[Path, typer.Option(help="The checkpoint folder that the index was made with.")],
    folder: Annotated[Path, typer.Option("--in", help="A folder that was indexed.")] = Path(),
    count: Annotated[int, typer.Option(min=1, help="So many, the best first.")] = 5,
) -> None:
    """Find pictures by a text, in either language."""
    from ziya_visual.serve.search import find as run

    for found in run(text, folder, model, count=count):
        typer.echo(f"{found.score:.3f} {found.path}")


def main() -> None:
    """Run a command; an error is one readable line and a non-zero exit code.

    2: something to be mended by the user; 1: a fault of ours; 130: interrupted.
    """
    debug = "--debug" in sys.argv
    _quieten()
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
        _fail(f"{type(error).__name__}: {one_line(error)} (a fault of ours; --debug shows where)", 1)


def _quieten() -> None:
    """Leave out what is for nobody: bars where no terminal shows them, and a library's notes to another."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
