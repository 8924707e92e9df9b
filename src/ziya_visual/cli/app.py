"""The commands of ``ziya-visual``, and the one line that an error becomes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from ziya_visual import __version__
from ziya_visual.cli.arguments import Checkpoint, Seed, Weights, show
from ziya_visual.cli.data import data, forge
from ziya_visual.cli.evaluation import measure
from ziya_visual.core import log
from ziya_visual.core.errors import ZiyaError, one_line

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(measure)
app.add_typer(forge, name="forge")
app.add_typer(data, name="data")

Host = Annotated[str, typer.Option(help="Address to listen on. A public address needs a key.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable that holds the API key.")]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make and use bilingual vision-language models."""
    log.setup(debug=debug)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    from_scratch: Annotated[bool, typer.Option(help="Also pre-train the tiny ViT and LM.")] = False,
) -> None:
    """Run the whole system in miniature: draw, forge, train, evaluate and report."""
    from ziya_visual.quickstart import quickstart as run

    run(out, seed=seed, from_scratch=from_scratch)


@app.command()
def init(
    llm: Annotated[str, typer.Option(help="Folder or Hub id of any causal language model.")],
    out: Annotated[Path, typer.Option(help="New checkpoint folder.")],
    bridge: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a BLIP-2, InstructBLIP, Ziya or Ziya-Visual checkpoint."),
    ] = None,
    vision_config: Annotated[
        Path | None, typer.Option(help="JSON config of a new ViT, without a bridge.")
    ] = None,
    qformer_config: Annotated[
        Path | None, typer.Option(help="JSON config of a new Q-Former, without a bridge.")
    ] = None,
    qformer_tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a tokenizer for the Q-Former's text side.")
    ] = None,
    instruction_aware: Annotated[
        bool,
        typer.Option("--instruction-aware", help="Let the Q-Former read the question, as in InstructBLIP."),
    ] = False,
    seed: Seed = 0,
) -> None:
    """Compose a checkpoint from the vision side of one model and the language model of another."""
    options = dict(locals())
    from ziya_visual.model.build.init import init as run

    show(run(**options))


@app.command("apply-delta")
def apply_delta(
    base: Annotated[str, typer.Option(help="Folder or Hub id of the base model.")],
    delta: Annotated[str, typer.Option(help="Folder or Hub id of the delta weights.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    whole: Annotated[
        list[str] | None,
        typer.Option(
            help="Module whose tensors the delta holds whole, such as lm_head; repeatable, or 'none'. "
            "Default: embed_tokens, lm_head and rotary_emb, as Ziya's authors made it."
        ),
    ] = None,
) -> None:
    """Rebuild a language model that was released as delta weights."""
    from ziya_visual.model.build.language_model import WHOLE
    from ziya_visual.model.build.language_model import apply_delta as run

    names = WHOLE if whole is None else tuple(name for name in whole if name != "none")
    show(run(base=base, delta=delta, out=out, whole=names))


@app.command("pretrain-parts")
def pretrain_parts(
    out: Annotated[Path, typer.Option(help="Folder for vit/, lm/ and card.json.")], seed: Seed = 0
) -> None:
    """Pre-train the tiny ViT and LM that the quickstart starts from."""
    from ziya_visual.train.pretrain import pretrain_parts as run

    run(out, seed=seed)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="Changes as key=value, such as stages.0.steps=100.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
) -> None:
    """Run the stages of a recipe. A killed run resumes where it stopped."""
    from ziya_visual.core.recipe import load_recipe
    from ziya_visual.train.run import run_recipe

    loaded = load_recipe(recipe, changes or ())
    typer.echo(str(run_recipe(loaded if stage is None else loaded.until(stage))))


@app.command()
def doctor(
    target: Annotated[
        Path | None, typer.Argument(help="Recipe file or checkpoint folder; only this machine if omitted.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe as key=value, as for train.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs to plan the recipe for.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with sizes in bytes.")
    ] = False,
) -> None:
    """Report what this machine has, what fits on it, and what to change."""
    from ziya_visual.doctor import doctor as run

    raise typer.Exit(run(target, changes or (), gpus=gpus, json_output=json_output))


@app.command()
def export(
    checkpoint: Checkpoint,
    to: Annotated[Path, typer.Option(help="Export folder; an earlier export there is replaced.")],
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option(help="Quantize the language model's linear layers with torchao."),
    ] = None,
    retrieval: Annotated[bool, typer.Option(help="Write a Blip2ForImageTextRetrieval checkpoint.")] = False,
    push: Annotated[
        str | None, typer.Option(help="Upload to owner/name (private if new), with the token in HF_TOKEN.")
    ] = None,
) -> None:
    """Write a stock checkpoint with a model card, and compare its logits with ours."""
    from ziya_visual.model.publish.export import export as run

    typer.echo(str(run(checkpoint, to=to, quantize=quantize, retrieval=retrieval, push=push)))


@app.command()
def chat(
    checkpoint: Checkpoint,
    image: Annotated[Path | None, typer.Option(help="Picture to talk about.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON line per answer.")] = False,
    dtype: Weights = "auto",
) -> None:
    """Talk about a picture in the terminal, or answer piped questions, one per line."""
    from ziya_visual.serve.terminal import chat as run

    run(checkpoint, image=image, json_output=json_output, dtype=dtype)


@app.command()
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_env: KeyEnv = None,
    allow_image_hosts: Annotated[
        str | None, typer.Option(help="Hosts to fetch pictures from, separated by commas; none by default.")
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
    against: Annotated[Path | None, typer.Option(help="Second checkpoint, to vote between the two.")] = None,
    votes: Annotated[Path, typer.Option(help="Folder for the votes, for `leaderboard`.")] = Path(
        "runs/votes"
    ),
    host: Host = "127.0.0.1",
    port: Port = 7860,
    api_key_env: KeyEnv = None,
    dtype: Weights = "auto",
) -> None:
    """Open a web page to talk about pictures."""
    from ziya_visual.serve.web import web as run

    run(checkpoint, against=against, votes=votes, host=host, port=port, api_key_env=api_key_env, dtype=dtype)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures; subfolders are included.")],
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")],
) -> None:
    """Index the pictures of a folder for `find`; unchanged pictures are not read again."""
    from ziya_visual.serve.search import index_folder

    typer.echo(f"{len(index_folder(folder, model).names)} pictures")


@app.command()
def find(
    text: Annotated[str, typer.Argument(help="What the picture shows, such as 一只猫.")],
    model: Annotated[Path, typer.Option(help="Checkpoint folder that the index was made with.")],
    folder: Annotated[Path, typer.Option("--in", help="Indexed folder.")] = Path(),
    count: Annotated[int, typer.Option(min=1, help="Number of results, best first.")] = 5,
) -> None:
    """Find pictures by text, in either language."""
    from ziya_visual.serve.search import find as run

    for match in run(text, folder, model, count=count):
        typer.echo(f"{match.score:.3f} {match.path}")


def main() -> None:
    """Run a command; report an error as one readable line and a non-zero exit code.

    The code is 2 for an error that the user can fix, 1 for a bug of ours, and 130 after an interrupt.
    """
    debug = "--debug" in sys.argv
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # hides the libraries' progress bars
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
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
        _fail(f"{type(error).__name__}: {one_line(error)} (a bug in Ziya-Visual; --debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
