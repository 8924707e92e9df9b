from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Endpoint, captions

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import canonical_json, hash_bytes, write_records
from ziya_visual.core.records import Example, Message
from ziya_visual.forge.ask.cost import estimate_tokens, read_prices
from ziya_visual.forge.ask.endpoint import retry_after_seconds
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.forge.estimate import estimate_translation
from ziya_visual.forge.planning import Settings, record_of
from ziya_visual.forge.prompting import load_prompt

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "temperature": 0,
    "max_tokens": 64,
}


def test_any_changed_field_changes_the_key(tmp_path: Path) -> None:
    changed = [
        BODY,
        {**BODY, "model": "n"},
        {**BODY, "temperature": 0.1},
        {**BODY, "max_tokens": 65},
        {**BODY, "seed": 1},
        {**BODY, "messages": [{"role": "system", "content": "x"}]},
        {**BODY, "messages": [{"role": "user", "content": "x "}]},
        {**BODY, "messages": BODY["messages"] * 2},
    ]
    with Ledger(tmp_path) as ledger:
        keys = ledger.add(changed)
        assert len(set(keys)) == len(changed)
        assert ledger.add([dict(reversed(BODY.items()))]) == keys[:1]
        assert ledger.body(keys[0]) == BODY


def test_a_dead_run_leaves_its_requests_pending_and_its_answers_paid(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        keys = ledger.add([{**BODY, "seed": n} for n in range(4)])
        ledger.start(keys)
        ledger.finish(
            [Outcome(keys[0], "done", "一"), Outcome(keys[1], "failed"), Outcome(keys[2], "done", "二")]
        )
        ledger.reject({keys[2]: "not_json", keys[3]: "not answered: stays"})
    with Ledger(tmp_path) as ledger:
        assert ledger.waiting(keys) == [keys[1], keys[3]]
        assert ledger.outcome(keys[2]).answer == "二"
        assert ledger.totals()["states"] == {
            "pending": 2,
            "in_flight": 0,
            "done": 1,
            "rejected": 1,
            "failed": 0,
        }


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text(
        "this is a text, not a database, and long enough to be seen as one"
    )
    with pytest.raises(DataError, match="no ledger"):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_dry_run_counts_what_a_run_would_send(endpoint: Endpoint, tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", captions(30))
    (tmp_path / "prices.yaml").write_text("tiny: {prompt: 1, completion: 2}\n")
    prices = read_prices(tmp_path / "prices.yaml")
    found = estimate_translation(tmp_path / "in.jsonl", to="zh", model="tiny", prices=prices)
    assert (found.records, found.requests) == (30, 5)
    assert found.usd == pytest.approx((found.prompt_tokens + 2 * found.completion_tokens) / 1e6, abs=1e-4)
    assert endpoint.prompts == []
    assert estimate_tokens("a red star") in range(2, 5)
    with pytest.raises(ConfigError, match="no price for model 'big'"):
        estimate_translation(tmp_path / "in.jsonl", to="zh", model="big", prices=prices)


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_the_key_of_a_record_is_that_of_its_canonical_json(lang: str, task: str, said: list[str]) -> None:
    """Written another way for speed: ledgers of earlier versions are found by it."""
    settings = Settings("zh", "m", load_prompt("translate"), {})
    example = Example("a", lang, task, tuple(Message("assistant", text) for text in said))
    whole = canonical_json([lang, task, [], said])
    assert record_of(example, settings).key == hash_bytes(f"{settings.fingerprint}{whole}".encode())[:32]
