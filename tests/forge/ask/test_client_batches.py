"""The Batch API: a job is paid once, whenever the run that made it died."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from loopback import Endpoint, captions
from test_client import bodies

from ziya_visual.core.errors import EndpointError
from ziya_visual.forge.ask.client import _read_row, ask_all, find_or_create_job
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ledger
from ziya_visual.forge.translate import translate


class BatchApi(Endpoint):
    """Files and batches, enough of them; a batch is done at the second look."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        super().__init__()
        owner, handler = self, self.server.RequestHandlerClass

        def do_get(request: Any) -> None:
            status, text = owner.get(request.path)
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(text.encode())))
            request.end_headers()
            request.wfile.write(text.encode())

        def do_post(request: Any) -> None:
            data = request.rfile.read(int(request.headers["Content-Length"])).decode()
            text = json.dumps(owner.post(request.path, data))
            request.send_response(200)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(text.encode())))
            request.end_headers()
            request.wfile.write(text.encode())

        handler.do_GET, handler.do_POST = do_get, do_post  # type: ignore[attr-defined]

    def post(self, path: str, data: str) -> Mapping[str, Any]:
        if path.endswith("/files"):
            lines = re.findall(r"^\{\"custom_id\".*\}\s*$", data, re.MULTILINE)
            name = f"file-{len(self.files)}"
            self.files[name] = "\n".join(line.strip() for line in lines)
            return {
                "id": name,
                "object": "file",
                "bytes": 1,
                "created_at": 0,
                "filename": "r",
                "purpose": "batch",
            }
        asked = json.loads(data)
        name = f"batch-{len(self.jobs)}"
        job = {
            "id": name, "object": "batch", "endpoint": "/v1/chat/completions", "status": "in_progress",
            "completion_window": "24h", "created_at": 0, **asked,
        }  # fmt: skip
        self.jobs[name] = job
        return job

    def get(self, path: str) -> tuple[int, str]:
        if "/content" in path:
            return 200, self.files[path.split("/")[-2]]
        if path.split("?")[0].endswith("/batches"):
            return 200, json.dumps({"object": "list", "data": list(self.jobs.values()), "has_more": False})
        job = self.jobs[path.split("/")[-1]]
        shown = json.dumps(job)
        if job["status"] == "in_progress":
            job |= {"status": "completed", "output_file_id": self._work(job["input_file_id"])}
        return 200, shown

    def _work(self, name: str) -> str:
        rows = []
        for line in self.files[name].splitlines():
            row = json.loads(line)
            _, _, reply = self.answer(row["body"], {})
            response = {"status_code": 200, "body": json.loads(reply)}
            rows.append(json.dumps({"custom_id": row["custom_id"], "response": response, "error": None}))
        self.files["out-" + name] = "\n".join(rows)
        return "out-" + name


def test_the_batch_api_answers_and_is_paid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = BatchApi()
    sending = Sending("m", server.url, use_batches=True, poll_seconds=0.01)
    found = translate(captions(20), to="zh", out=tmp_path, sending=sending)
    assert (found.accepted, len(server.jobs)) == (20, 1)
    assert translate(captions(20), to="zh", out=tmp_path, sending=sending).sent == 0
    # A run that died before it had read its job's results finds that job again, by its requests.
    with Ledger(tmp_path / "again") as ledger:
        keys = ledger.add(bodies(3))
        name = find_or_create_job(ledger, openai.OpenAI(base_url=server.url, api_key="none"), keys)
    with Ledger(tmp_path / "again") as ledger:
        ask_all(ledger, keys, sending)
        assert {o.answer for o in ledger.outcomes(keys).values()} == {"红色"}
        assert ledger.batches(server.url) == []
    assert list(server.jobs) == ["batch-0", name]
    server.close()


def test_an_endpoint_without_batches_says_so(endpoint: Endpoint, tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger, pytest.raises(EndpointError, match="the Batch API said"):
        ask_all(ledger, ledger.add(bodies(1)), Sending("m", endpoint.url, use_batches=True))


@pytest.mark.parametrize(
    "response", [None, "busy", [], {"status_code": 200, "body": "half"}, {"status_code": 200}]
)
def test_a_malformed_batch_row_fails_that_request_alone(response: Any) -> None:
    outcome = _read_row({"custom_id": "k", "response": response}, 1.0)
    assert outcome.key == "k"
    assert outcome.state in ("failed", "rejected")
