"""``export --push`` through the real hub client, against a hub on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from ziya_visual.core.errors import EndpointError
from ziya_visual.model.publish.export import export

TOKEN = "hf_of_nobody_17"


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload without large-file storage needs."""

    def do_POST(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(sent))
            self.answer(200, {"url": f"http://{self.headers['Host']}/me/tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"warnings": [], "errors": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(sent)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(200, {"files": files})
        else:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            where = f"http://{self.headers['Host']}/me/tiny/commit/1"
            self.answer(200, {"commitUrl": where, "commitOid": "1", "pullRequestUrl": None})

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/tiny", "sha": "1", "siblings": [], "private": True})

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.seen, server.made, server.files = [], [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()


def test_push_uploads_every_file(
    llama: Any, tmp_path: Path, fake_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    export(llama[1], to=tmp_path / "out", push="me/tiny")
    assert fake_hub.made[0]["name"] == "tiny"
    assert fake_hub.made[0].get("private") or fake_hub.made[0].get("visibility") == "private"
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert fake_hub.files == written
    assert {"README.md", "model.safetensors", "parity.json"} <= written.keys()
    assert not any(
        TOKEN.encode() in content for name, content in written.items() if name.endswith((".json", ".md"))
    )


def test_a_hub_that_refuses_is_one_line(
    llama: Any, tmp_path: Path, fake_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(
        EndpointError, match=r"--push me/tiny: .*; .*out is complete, push it again"
    ) as caught:
        export(llama[1], to=tmp_path / "out", push="me/tiny")
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert (tmp_path / "out" / "parity.json").is_file()
    assert fake_hub.files == {}
