from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.forge.ask.ledger import Ledger, Outcome

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
        ledger.record(keys)
        outcomes = [Outcome(keys[0], "done", "一"), Outcome(keys[1], "failed")]
        ledger.record(outcomes=[*outcomes, Outcome(keys[2], "done", "二")])
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
    with pytest.raises(DataError, match="not a ledger"):
        Ledger(tmp_path)
