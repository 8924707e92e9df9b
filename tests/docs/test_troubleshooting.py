"""Every error of the page is what the command says today."""

from __future__ import annotations

import io
import shlex
import socket
import sys
from pathlib import Path

import pytest
from pages import DOCS, Block, blocks

from ziya_visual.cli.app import main

BLOCKS = [block for block in blocks(DOCS / "troubleshooting.md") if block.kind == "console"]
TRIED = [block for block in BLOCKS if block.reason is None]


@pytest.mark.parametrize("block", TRIED, ids=str)
def test_the_error_is_said(
    block: Block,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_log: None,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        shown = block.text.replace("8000", str(taken.getsockname()[1]))  # a port that another process has
        command, *expected = shown.splitlines()
        prompt, name, *arguments = shlex.split(command)
        assert (prompt, name) == ("$", "ziya-visual")
        monkeypatch.chdir(folder)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 2
    said = capsys.readouterr().err.replace(f"{folder}/", "").splitlines()
    assert [line for line in said if line.startswith("error:")] == expected


def test_most_are_tried() -> None:
    assert len(BLOCKS) - len(TRIED) <= 4, "errors that no test provokes"
