"""What sends: failover, adaptive concurrency, rates, the budget, the time limit."""

import asyncio
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Endpoint, captions

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import read_jsonl
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.endpoint import Client, Sending
from ziya_visual.forge.ask.ledger import Ledger, Outcome, read_totals
from ziya_visual.forge.ask.limits import Budget, Gate, Pace
from ziya_visual.forge.translate import TranslationReport, translate

FAST: dict[str, Any] = {"backoff_seconds": 0.01, "timeout_seconds": 5.0}


def bodies(count: int) -> list[dict[str, Any]]:
    asked = [{"role": "user", "content": "Translate into Chinese:\nred"}]
    return [{"model": "m", "messages": asked, "max_tokens": 64, "seed": n} for n in range(count)]


def ask(ledger: Ledger, endpoint: Endpoint | list[str], count: int, **options: Any) -> list[Outcome]:
    keys = ledger.add(bodies(count))
    urls = endpoint.url if isinstance(endpoint, Endpoint) else tuple(endpoint)
    ask_all(ledger, keys, Sending("m", urls, **{**FAST, **options}))
    return list(ledger.outcomes(keys).values())


def test_another_endpoint_takes_over(endpoint: Endpoint, tmp_path: Path) -> None:
    broken = Endpoint()
    broken.fault = lambda number, lines, answer: (500, {}, "oops")
    with Ledger(tmp_path) as ledger:
        found = ask(ledger, ["http://127.0.0.1:9/v1", broken.url, endpoint.url], 20, concurrency=4)
    broken.close()
    assert {outcome.answer for outcome in found} == {"红色"}
    assert len(broken.prompts) <= 4, "an endpoint that fails is left alone for a while"
    assert len(endpoint.prompts) == 20


def test_a_wrong_key_at_one_endpoint_is_no_end(endpoint: Endpoint, tmp_path: Path) -> None:
    locked = Endpoint()
    locked.fault = lambda number, lines, answer: (401, {}, "{}")
    with Ledger(tmp_path) as ledger:
        assert {o.state for o in ask(ledger, [locked.url, endpoint.url], 3, concurrency=1)} == {"done"}
    locked.close()


def test_response_format_is_dropped_where_it_is_unknown(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = lambda n, lines, answer: (
        (400, {}, '{"error": {"message": "response_format is not supported"}}') if n == 0 else None
    )
    found = translate(
        captions(2),
        to="zh",
        out=tmp_path,
        sending=Sending("m", endpoint.url, concurrency=1, **FAST),
        texts_per_request=1,
    )
    assert found.accepted == 2
    assert len(endpoint.prompts) == 3


def test_a_slow_drip_ends_at_the_time_limit(tmp_path: Path) -> None:
    class Drip(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b" ")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    started = time.monotonic()
    with Ledger(tmp_path) as ledger:
        (found,) = ask(ledger, [url], 1, timeout_seconds=0.4, max_attempts=2)
    server.shutdown()
    server.server_close()
    assert (found.state, found.reason) == ("failed", "timeout")
    assert time.monotonic() - started < 4.0


@given(marks=st.lists(st.booleans(), max_size=60), highest=st.integers(1, 16))
def test_the_gate_never_lets_in_more_than_its_limit(marks: list[bool], highest: int) -> None:
    async def main() -> int:
        gate, inside, most = Gate(highest), 0, 0

        async def work(overloaded: bool) -> None:
            nonlocal inside, most
            async with gate:
                inside += 1
                most = max(most, inside)
                assert inside <= highest
                await asyncio.sleep(0)
                inside -= 1
            if overloaded:
                gate._halved_at = float("-inf")
                gate.halve()
            assert 1 <= gate.limit <= highest

        await asyncio.gather(*(work(mark) for mark in marks))
        return most

    assert asyncio.run(main()) <= highest


def test_overload_halves_what_is_in_flight(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = lambda n, lines, answer: (429, {"Retry-After": "0.05"}, "{}") if n < 8 else None
    with Ledger(tmp_path) as ledger:
        assert {o.state for o in ask(ledger, endpoint, 40, concurrency=16)} == {"done"}
    gate = Gate(16)
    gate.halve()
    gate.halve()  # of the same moment
    assert gate.limit == 8


def test_the_pace_is_kept() -> None:
    async def main() -> float:
        pace = Pace(6000)  # one every 10 ms
        started = time.monotonic()
        await asyncio.gather(*(pace.take(1) for _ in range(21)))
        return time.monotonic() - started

    assert asyncio.run(main()) >= 0.19


def test_the_budget_is_never_passed(endpoint: Endpoint, tmp_path: Path) -> None:
    price = (1000.0, 1000.0)  # a reply of 10 + 5 tokens costs 0.015 dollars
    sending = Sending("m", endpoint.url, price=price, budget_usd=0.4, **FAST)

    def run(sending: Sending) -> TranslationReport:
        options = {"to": "zh", "out": tmp_path, "texts_per_request": 1, "prompt": "translate_plain"}
        return translate(captions(40), sending=sending, **options)

    found = run(sending)
    assert found.usd is not None
    assert 0.2 < found.usd <= 0.4
    assert found.accepted + found.rejected["not_sent"] == 40
    assert found.accepted == len(endpoint.prompts) == found.sent
    assert run(sending).usd == pytest.approx(found.usd, abs=0.2)
    assert run(replace(sending, budget_usd=9)).accepted == 40
    with pytest.raises(ConfigError, match="--budget-usd needs --prices"):
        run(replace(sending, price=None))


@given(costs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 64)), max_size=30))
def test_whatever_replies_cost_a_budget_holds(costs: list[tuple[int, int]]) -> None:
    async def main() -> None:
        budget = Budget(0.001, (1.0, 1.0), spent_usd=0.0)
        for number, (prompt, completion) in enumerate(costs):
            body = {"messages": [{"role": "user", "content": "x" * 60}], "max_tokens": 64}
            if await budget.reserve(str(number), body):
                budget.settle(Outcome(str(number), "done", "", None, prompt, completion))
            assert budget.spent_usd <= budget.limit_usd

    asyncio.run(main())


def test_glossary_and_examples_are_shown_and_the_glossary_checked(endpoint: Endpoint, tmp_path: Path) -> None:
    found = translate(
        captions(3), to="zh", out=tmp_path, sending=Sending("m", endpoint.url, **FAST),
        glossary=(("red", "赤色"), ("unicorn", "独角兽")), shots=(("a dog", "一只狗"),),
    )  # fmt: skip
    prompt = endpoint.prompts[0]
    assert "- red = 赤色" in prompt
    assert "unicorn" not in prompt
    assert "一只狗" in prompt
    assert found.rejected["glossary"] == 3
    assert {tuple(row["reasons"]) for _, row in read_jsonl(tmp_path / "rejected.jsonl")} == {("glossary",)}


@pytest.mark.parametrize(
    ("name", "reply", "reasons"),
    [
        ("critic", '{"ok": false, "why": "wrong colour"}', {"critic"}),
        ("critic", '{"ok": true}', set()),
        ("critic", "perhaps", {"critic"}),
        ("back_translation", '{"translations": ["A truck drives past."]}', {"back_translation"}),
    ],
)
def test_one_more_opinion(
    endpoint: Endpoint, tmp_path: Path, name: str, reply: str, reasons: set[str]
) -> None:
    endpoint.fault = lambda n, lines, answer: (
        None if lines[0] in ("Here is a red circle.",) else (200, {}, reply)
    )
    found = translate(
        captions(1), to="zh", out=tmp_path, sending=Sending("m", endpoint.url, **FAST), extra_checks=(name,)
    )
    assert set(found.rejected) == reasons
    assert len(endpoint.prompts) == 2


def test_a_request_is_known_as_in_flight_before_it_is_sent(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[int] = []
    send = Client.ask

    async def looking(self: Client, key: str, body: dict[str, Any]) -> Outcome:
        states.append(read_totals(tmp_path)["states"]["in_flight"])
        return await send(self, key, body)

    monkeypatch.setattr(Client, "ask", looking)
    with Ledger(tmp_path) as ledger:
        ask(ledger, endpoint, 12, concurrency=4)
    assert len(states) == 12
    assert min(states) >= 1
    assert states[:4] == [4] * 4
