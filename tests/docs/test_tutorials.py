"""The tutorials' commands and Python, page by page, in a folder with tiny things in place of the real ones.

Blocks run in their order in one shell, Python ones as scripts; servers stay in the background until the page
ends. The ports that pages name are exchanged for free ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, ROOT, TUTORIALS, Block, blocks

from ziya_visual.core.records import example_from_dict

SERVE = re.compile(r"^ziya-visual serve (\S+).*$", re.M)
AWAIT = "until curl -sf http://127.0.0.1:{port}/health > /dev/null; do sleep 0.2; done"
SECONDS = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(shown: list[Block]) -> str:
    """A page as one shell script that stops at the first command that fails."""
    port = free_port()
    lines = ["set -euo pipefail"]
    for block in shown:
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        if block.kind == "python":
            text = f"python - <<'PYTHON'\n{text}PYTHON\n"
        else:
            served = rf"ziya-visual serve \1 --port {port} &\n{AWAIT.format(port=port)}"
            text = SERVE.sub(served, text)
        lines.append(f"echo '== {block}'\n{text}")
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs(page: str, folder: Path, tmp_path: Path) -> None:
    shown = [b for b in blocks(DOCS / f"{page}.md") if b.reason is None and b.kind in ("sh", "python")]
    if not shown:
        assert page not in ("init", "fine-tune", "forge", "evaluation", "serving"), "nothing left to run"
        return
    here = tmp_path / "reader"
    shutil.copytree(folder, here, symlinks=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "100"}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", script(shown)],
            cwd=here,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # the shell where it hangs, and the page's servers
    assert code == 0, log.read_text()[-3000:]


def test_records_that_pages_show_are_records() -> None:
    shown = [block for page in TUTORIALS for block in blocks(DOCS / f"{page}.md") if block.kind == "json"]
    assert shown
    for block in shown:
        example_from_dict(json.loads(block.text))
