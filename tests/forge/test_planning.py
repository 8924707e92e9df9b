from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Endpoint, captions

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import canonical_json, hash_bytes, write_records
from ziya_visual.core.records import Example, Message
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ledger
from ziya_visual.forge.ask.limits import estimate_tokens, read_price
from ziya_visual.forge.planning import ExampleFile, Settings, estimate_translation, plan_first, record_of
from ziya_visual.forge.prompting import load_prompt


def test_a_dry_run_counts_what_a_run_would_send(endpoint: Endpoint, tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", captions(30))
    (tmp_path / "prices.yaml").write_text("tiny: {prompt: 1, completion: 2}\n")
    sending = Sending("tiny", endpoint.url, price=read_price(tmp_path / "prices.yaml", "tiny"))
    found = estimate_translation(ExampleFile(tmp_path / "in.jsonl"), to="zh", sending=sending)
    assert (found.records, found.requests) == (30, 5)
    assert found.usd == pytest.approx((found.prompt_tokens + 2 * found.completion_tokens) / 1e6, abs=1e-4)
    assert endpoint.prompts == []
    assert estimate_tokens("a red star") in range(2, 5)
    with pytest.raises(ConfigError, match="no price for model 'big'"):
        read_price(tmp_path / "prices.yaml", "big")


def test_a_killed_plan_is_planned_again_without_a_difference(tmp_path: Path) -> None:
    given = Settings("zh", "m", load_prompt("translate"), {"temperature": 0})
    records = [record_of(example, given) for example in captions(60)]
    with Ledger(tmp_path / "once") as ledger:
        keys = plan_first(ledger, records * 2, given, 6)
        assert len(keys) == len(set(keys)) == 10
    with Ledger(tmp_path / "twice") as ledger:
        plan_first(ledger, records[:30], given, 6)
    with Ledger(tmp_path / "twice") as ledger:
        assert plan_first(ledger, records, given, 6) == keys


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_the_key_of_a_record_is_that_of_its_canonical_json(lang: str, task: str, said: list[str]) -> None:
    """Written another way for speed: ledgers of earlier versions are found by it."""
    settings = Settings("zh", "m", load_prompt("translate"), {})
    example = Example("a", lang, task, tuple(Message("assistant", text) for text in said))
    whole = canonical_json([lang, task, [], said])
    assert record_of(example, settings).key == hash_bytes(f"{settings.fingerprint}{whole}".encode())[:32]
