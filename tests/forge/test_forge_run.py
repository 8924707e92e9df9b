"""The forge against a server that misbehaves, under SIGKILL, on Ray."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rough_server import CONTENT, Process, fault_of, texts

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import read_examples, read_jsonl, write_records
from ziya_visual.core.records import Example, Message
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.planning import ExampleFile
from ziya_visual.forge.report import report, status
from ziya_visual.forge.run import translate_on_ray
from ziya_visual.forge.translate import translate


def rows(count: int) -> list[Example]:
    return [
        Example(id=f"c{n}", lang="en", task="caption", messages=(Message("assistant", text),), image_id="i")
        for n, (text, _) in enumerate(texts(count))
    ]


def accounted(out: Path, examples: list[Example]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What was accepted and what rejected; together every record once."""
    good = [(e.id.removesuffix(":zh"), e.messages[0].content) for e in read_examples(out / "accepted.jsonl")]
    bad = [(row["id"], row["reasons"]) for _, row in read_jsonl(out / "rejected.jsonl")]
    assert Counter(name for name, _ in [*good, *bad]) == Counter(e.id for e in examples)
    return dict(good), dict(bad)


@pytest.mark.slow
def test_every_record_of_a_misbehaving_server_is_accounted_for(tmp_path: Path) -> None:
    examples, right = rows(2000), dict(texts(2000))
    sources = {e.id: e.messages[0].content for e in examples}
    server = Process(faults=True)
    sending = Sending("m", server.url, concurrency=32, backoff_seconds=0.05, timeout_seconds=3.0)
    translate(examples, to="zh", out=tmp_path, sending=sending)
    accepted, rejected = accounted(tmp_path, examples)
    sent = server.stats()["requests"]
    again = translate(examples, to="zh", out=tmp_path, sending=sending)
    assert (again.sent, server.stats()["requests"]) == (0, sent)
    server.close()
    for name, target in accepted.items():
        assert target == right[sources[name]]
    for name, reasons in rejected.items():
        fault = fault_of(sources[name])
        assert fault is not None, (sources[name], reasons)
        assert CONTENT[fault] & set(reasons), (fault, reasons)
    assert {fault_of(sources[name]) for name in rejected} == set(CONTENT)
    page = report(tmp_path).read_text(encoding="utf-8")
    assert all(reason in page for reasons in CONTENT.values() for reason in reasons)


CHILD = """
import sys
from pathlib import Path
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.planning import ExampleFile
from ziya_visual.forge.translate import translate
folder, url = Path(sys.argv[1]), sys.argv[2]
translate(ExampleFile(folder / "in.jsonl"), to="zh", out=folder / "out", sending=Sending("m", url, 16),
          texts_per_request=1)
"""


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_repeat_no_more_than_was_in_flight(tmp_path: Path) -> None:
    examples = rows(400)
    write_records(tmp_path / "in.jsonl", examples)
    server, rng, in_flight = Process(seconds=0.1), random.Random(0), 0
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), server.url]
    for _ in range(10):
        before = server.stats()["requests"]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
        deadline = time.monotonic() + 60
        while child.poll() is None and server.stats()["requests"] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.25))
        child.send_signal(signal.SIGKILL)
        child.wait()
        in_flight += status(tmp_path / "out")["states"]["in_flight"]
    found = translate(
        ExampleFile(tmp_path / "in.jsonl"), to="zh", out=tmp_path / "out", sending=Sending("m", server.url),
        texts_per_request=1,
    )  # fmt: skip
    stats = server.stats()
    server.close()
    accepted, _ = accounted(tmp_path / "out", examples)
    assert (len(accepted), found.accepted) == (400, 400)
    assert len(stats["bodies"]) == 400
    assert stats["requests"] - 400 <= in_flight
    assert 0 < in_flight <= 10 * 16


@pytest.mark.slow
def test_partitions_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    examples = rows(60)
    write_records(tmp_path / "in.jsonl", examples)
    server = Process()
    options: dict[str, Any] = {"out": tmp_path / "out", "sending": Sending("m", server.url)}
    run = partial(translate, to="zh")
    found = translate_on_ray(run, tmp_path / "in.jsonl", partitions=3, **options)
    sent = server.stats()["requests"]
    assert found == {"records": 60, "accepted": 60}
    accounted(tmp_path / "out", examples)
    assert translate_on_ray(run, tmp_path / "in.jsonl", partitions=3, **options)["accepted"] == 60
    assert server.stats()["requests"] == sent
    assert status(tmp_path / "out")["states"]["done"] == sent
    with pytest.raises(ConfigError, match="more than 2 partitions"):
        translate_on_ray(run, tmp_path / "in.jsonl", partitions=2, **options)
    server.close()


def test_ray_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'ziya-visual\[ray\]'"):
        translate_on_ray(
            translate, tmp_path / "in.jsonl", out=tmp_path, sending=Sending("m", ""), partitions=2
        )


def test_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ziya_visual.cli.app import app

    write_records(tmp_path / "in.jsonl", rows(12))
    server, runner = Process(), CliRunner()
    common = ["--to", "zh", "--out", str(tmp_path / "out"), "--model", "m", "--base-url", server.url]
    (tmp_path / "prices.yaml").write_text("m: {prompt: 1, completion: 2}\n")
    (tmp_path / "glossary.yaml").write_text("red: 红色\n")
    priced = ["--prices", str(tmp_path / "prices.yaml")]
    dry = runner.invoke(
        app, ["forge", "translate", str(tmp_path / "in.jsonl"), *common, *priced, "--dry-run"]
    )
    assert "requests" in dry.output
    assert not (tmp_path / "out").exists()
    assert server.stats()["requests"] == 0
    extra = ["--glossary", str(tmp_path / "glossary.yaml"), "--budget-usd", "1", "--concurrency", "4"]
    done = runner.invoke(app, ["forge", "translate", str(tmp_path / "in.jsonl"), *common, *priced, *extra])
    assert done.exit_code == 0, done.output
    assert len(read_examples(tmp_path / "out" / "accepted.jsonl")) == 12
    watched = runner.invoke(app, ["forge", "status", str(tmp_path / "out"), "--follow"])
    assert json.loads(watched.output.splitlines()[-1])["states"]["done"] == 2
    asked = runner.invoke(app, ["forge", "instruct", str(tmp_path / "in.jsonl"), *common, "--dry-run"])
    assert "requests" in asked.output
    server.close()
