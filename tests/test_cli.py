"""The command line: quick to ask for help, one line where something is wrong."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_base_and_pictures

from ziya_visual.cli.app import main

FOLDER = "recipes/finetune-folder.yaml"


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ziya_visual", *arguments],
        capture_output=True,
        text=True,
        input=text,
        check=False,
    )


@pytest.mark.slow
def test_what_is_piped_has_no_bars(tmp_path: Path) -> None:
    write_base_and_pictures(tmp_path, ("red",))
    (picture,) = (tmp_path / "pictures").glob("*.png")
    done = run("chat", str(tmp_path / "base"), "--image", str(picture), text="What?\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['ziya-visual', '--help']\n"
        "from ziya_visual.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'gradio', 'openai', 'numpy', 'pyarrow', 'datasets'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        "quickstart",
        "pretrain-parts",
        "chat",
        "serve",
        "web",
        "score",
        "judge",
        "doctor",
        "export",
        "init",
        "apply-delta",
        "reproduce",
        "leaderboard",
        "forge",
        "data",
    ):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["chat", "{tmp}/absent", "--image", "{tmp}/absent.png"], "absent.png: cannot be read"),
        (["chat", "{tmp}"], "no checkpoint there, config.json not found"),
        (["chat", "{tmp}", "--image", "{tmp}/not.png"], "not a readable image"),
        (["serve", "{tmp}"], "no config.json there"),
        (["export", "{tmp}", "--to", "{tmp}/out"], "no checkpoint there, config.json"),
        (["export", "{tmp}", "--to", "{tmp}"], "exists and is no earlier export"),
        (["serve", "{tmp}", "--host", "0.0.0.0"], "--api-key-env"),
        (["score", "captoin"], "unknown form; did you mean 'caption'?"),
        (["score", "gqa", "--predictions", "{tmp}/p.json"], "needs --annotations"),
        (["leaderboard", "{tmp}"], "reviews.jsonl: absent; give the --out folder of a finished judge run"),
        (
            ["score", "gqa", "--per-item", "--predictions", "{tmp}/p.json"],
            "--per-item writes to the file of --out",
        ),
        (["reproduce", "{tmp}/not.png"], "line 1 is not JSON"),
        (["forge", "status", "{tmp}"], "{tmp}"),
        (["data", "import", "cocoo", "{tmp}", "--out", "{tmp}/o"], "did you mean 'coco'?"),
        (["data", "stats", "{tmp}"], "and there is no captions.csv"),
        (["train", "{tmp}/absent.yaml"], "absent.yaml"),
        (["train", "{tmp}/recipe.yaml"], "unknown key 'precison'; did you mean 'precision'?"),
        (["train", FOLDER, "stages.0.setps=3"], "unknown key 'stages.0.setps'; did you mean 'steps'?"),
        (["train", FOLDER, "data.path=[{tmp}]", "out={tmp}/o"], "there is no captions.csv"),
        (["init", "--llm", "{tmp}", "--out", "{tmp}/o"], "give --bridge, or both"),
        (
            ["apply-delta", "--base", "{tmp}/a", "--delta", "{tmp}", "--out", "{tmp}/o"],
            "{tmp}/a: no such folder",
        ),
        (["eval", "{tmp}", "--suite", "{tmp}/absent.jsonl", "--out", "{tmp}/o"], "absent.jsonl"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_log: None,
) -> None:
    """In this process, since each of its own would import everything first."""
    (tmp_path / "not.png").write_text("not a picture")
    (tmp_path / "recipe.yaml").write_text("name: x\nprecison: fp32\n")
    typed = [argument.format(tmp=tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["ziya-visual", *typed])
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    one_line(capsys.readouterr().err, text.format(tmp=tmp_path))


def one_line(said: str, text: str) -> None:
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert text in lines[0]


def test_the_command_itself_says_one_line_too(tmp_path: Path) -> None:
    done = run("chat", str(tmp_path), text="hi\n")
    assert done.returncode == 2, done.stderr
    one_line(done.stderr, "no checkpoint there, config.json not found")


def test_debug_shows_where() -> None:
    assert "Traceback" in run("--debug", "train", "absent.yaml").stderr
