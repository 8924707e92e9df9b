"""A server in a process beside us, for as long as it is needed."""

import sys
from pathlib import Path

import httpx
import pytest

from ziya_visual.core.errors import EndpointError
from ziya_visual.serve.server import running_server


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"no config\.json there"), running_server(tmp_path):
        pass


TALKER = """#!{python}
import re, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Talks(BaseHTTPRequestHandler):
    def do_GET(self):
        sys.stderr.write("a warning\\n" * 20_000)
        sys.stderr.flush()
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(re.search(r"port=(\\d+)", sys.argv[2])[1])), Talks).serve_forever()
"""


def test_a_server_that_says_much_is_not_halted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes was once a pipe that nobody emptied."""
    talker = tmp_path / "talker"
    talker.write_text(TALKER.format(python=sys.executable))
    talker.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(talker))
    with running_server(tmp_path) as url:
        assert httpx.get(url, timeout=10).status_code == 200
