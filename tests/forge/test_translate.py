import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loopback import TEXTS, Endpoint, Reply, caption, captions, vqa

from ziya_visual.core.errors import ConfigError, DataError, EndpointError
from ziya_visual.core.files import read_examples, read_json, read_jsonl, write_records
from ziya_visual.core.records import Example, Message
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ledger
from ziya_visual.forge.report import report, status
from ziya_visual.forge.translate import TranslationReport, translate

FAST: dict[str, Any] = {"backoff_seconds": 0.01, "timeout_seconds": 5.0}


def run(examples: list[Example], out: Path, endpoint: Endpoint, **options: Any) -> TranslationReport:
    names = {field.name for field in dataclasses.fields(Sending)} & options.keys()
    sending = Sending("tiny", endpoint.url, **{**FAST, **{name: options.pop(name) for name in names}})
    return translate(
        examples, **{"to": "zh", "out": out, "prompt": "translate_plain", **options}, sending=sending
    )


def rejected(out: Path) -> dict[str, list[str]]:
    return {row["id"]: row["reasons"] for _, row in read_jsonl(out / "rejected.jsonl")}


@pytest.mark.parametrize("prompt", ["translate", "translate_plain"])
def test_every_task_is_translated_with_its_provenance(
    endpoint: Endpoint, tmp_path: Path, prompt: str
) -> None:
    turns = (Message("user", "What color is the star?"), Message("assistant", "red"))
    talk = Example(id="d", lang="en", task="dialogue", messages=turns * 2, image_id="i")
    examples = [caption("c", "Here is a red star."), vqa("v", "What color is the ring?", "blue"), talk]
    found = run(examples, tmp_path, endpoint, prompt=prompt)
    assert found.accepted == 3, rejected(tmp_path)
    one, two, three = read_examples(tmp_path / "accepted.jsonl")
    assert [m.content for m in one.messages] == ["这里有一个红色星形。"]
    assert (two.id, two.lang, two.answers) == ("v:zh", "zh", ("蓝色",))
    assert [m.role for m in three.messages] == ["user", "assistant"] * 2
    assert two.provenance.translated_from == "v"
    assert two.provenance.origin == "forge"
    assert two.provenance.model == "tiny"
    assert two.provenance.prompt_hash
    assert "numbers" not in two.provenance.checks
    assert "lexicon" in two.provenance.checks
    assert len(endpoint.prompts) == 2  # the short ones together, the dialogue by itself


def test_equal_records_are_sent_once_and_a_second_run_sends_nothing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    examples = [caption(f"c{n}", "Here is a red star.") for n in range(20)]
    assert run(examples, tmp_path, endpoint).accepted == 20
    assert len(endpoint.prompts) == 1
    before = (tmp_path / "accepted.jsonl").read_bytes()
    again = run(examples, tmp_path, endpoint)
    assert (again.sent, len(endpoint.prompts)) == (0, 1)
    assert (tmp_path / "accepted.jsonl").read_bytes() == before
    more = run([caption("new", "Here is a blue ring."), *examples], tmp_path, endpoint)
    assert (more.sent, more.accepted) == (1, 21), "a new record must not regroup the old ones"


def misbehave(number: int, lines: list[str], answer: str) -> Reply | None:
    """By text, so that the repair round meets the same fault; the first answers are transport errors."""
    if number % 7 == 1:
        return 429, {"Retry-After": "0.05"}, "{}"
    if number % 7 == 3:
        return 500, {}, "oops"
    if number % 7 == 5:
        return 200, {"finish": "cut"}, answer
    if len(lines) > 1 and (number % 2 or any(color in answer for color in ("黑", "白", "黄"))):
        return 200, {}, answer.rsplit("\n", 1)[0]
    if len(lines) == 1 and "black" in lines[0]:
        return 200, {}, "抱歉，我无法翻译这句话。"
    if len(lines) == 1 and "white" in lines[0]:
        return 200, {"finish": "length"}, answer[:4]
    if "yellow" in lines[0] and len(lines) == 1:
        return 200, {}, lines[0]
    return None


def test_every_record_is_accounted_for(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = misbehave
    examples = captions(90)
    found = run(examples, tmp_path, endpoint, concurrency=8)
    accepted = read_examples(tmp_path / "accepted.jsonl")
    bad = rejected(tmp_path)
    assert Counter([e.id.removesuffix(":zh") for e in accepted] + list(bad)) == Counter(
        e.id for e in examples
    )
    assert found.accepted + len(bad) == 90
    sources = {e.id: e.messages[0].content for e in examples}
    for example in accepted:
        assert example.messages[0].content == TEXTS[sources[example.id.removesuffix(":zh")]]
    for name, reasons in bad.items():
        expected = {"black": {"refusal"}, "white": {"truncated"}, "yellow": {"echo", "language"}}
        wanted = next(names for color, names in expected.items() if color in sources[name])
        assert wanted & set(reasons), (sources[name], reasons)
    assert read_json(tmp_path / "report.json")["rejected"]
    sent = len(endpoint.prompts)
    assert run(examples, tmp_path, endpoint).accepted == found.accepted
    assert len(endpoint.prompts) == sent


def test_wrong_number_of_lines_is_asked_once_more_then_rejected(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = lambda number, lines, answer: (200, {}, answer + "\n额外的一行。")
    found = run(captions(6), tmp_path, endpoint)
    assert found.rejected == {"wrong_number_of_items": 6}
    assert len(endpoint.prompts) == 1 + 6
    assert status(tmp_path)["states"]["rejected"] == 7


def test_a_server_that_is_busy_is_obeyed(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = lambda number, lines, answer: (429, {"Retry-After": "1"}, "{}") if number == 0 else None
    started = time.monotonic()
    assert run(captions(6), tmp_path, endpoint).accepted == 6
    assert 1.0 <= time.monotonic() - started < 4.0


def test_what_the_server_never_answers_is_a_row_and_is_tried_by_the_next_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.fault = lambda n, lines, answer: (500, {}, "oops") if "red star" in lines[0] else None
    examples = [caption("bad", "Here is a red star."), caption("good", "Here is a blue ring.")]
    found = run(examples, tmp_path, endpoint, texts_per_request=1, max_attempts=2)
    assert found.rejected == {"endpoint_failed": 1}
    endpoint.fault = lambda n, lines, answer: None
    again = run(examples, tmp_path, endpoint, texts_per_request=1)
    assert (again.accepted, again.sent) == (2, 1)


def test_errors_are_one_line_and_never_hold_the_key(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    endpoint.fault = lambda number, lines, answer: (401, {}, '{"error": {"message": "bad key sk-secret"}}')
    with pytest.raises(EndpointError, match=r"http_401: .*check --base-url") as error:
        run(captions(1), tmp_path / "a", endpoint)
    assert "sk-secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert endpoint.keys == ["Bearer sk-secret"]
    assert b"sk-secret" not in b"".join(p.read_bytes() for p in (tmp_path / "a").iterdir())
    sending = Sending("m", "http://127.0.0.1:9/v1", max_attempts=2, **FAST)
    with pytest.raises(EndpointError, match="no connection"):
        translate(captions(1), to="zh", out=tmp_path / "b", sending=sending)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        translate(
            captions(1), to="zh", out=tmp_path / "c", sending=Sending("m", "https://api.example.org/v1")
        )
    with pytest.raises(ConfigError, match="did you mean 'translate'"):
        run(captions(1), tmp_path, endpoint, prompt="translat")
    with pytest.raises(DataError, match="two records have the id 'c0'"):
        run(captions(1) * 2, tmp_path, endpoint)


def test_what_cannot_be_asked_is_rejected_with_its_reason(endpoint: Endpoint, tmp_path: Path) -> None:
    chinese = dataclasses.replace(caption("zh", "红色"), lang="zh")
    silent = dataclasses.replace(caption("silent", ""), messages=())
    examples = [chinese, caption("blank", " "), silent, caption("lines", "red\nblue"), caption("ok", "red")]
    run(examples, tmp_path, endpoint)
    assert rejected(tmp_path) == {
        "zh": ["already_in_target_language"],
        "blank": ["empty_source"],
        "silent": ["empty_source"],
        "lines": ["several_lines_in_plain_prompt"],
    }
    page = report(tmp_path).read_text(encoding="utf-8")
    assert "several_lines_in_plain_prompt" in page
    assert "://" not in page, "the page must need nothing from elsewhere"


CHILD = """
import sys
from pathlib import Path
from ziya_visual.core.files import read_examples
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.translate import translate
source, out, url = sys.argv[1:]
translate(read_examples(Path(source)), to="zh", out=Path(out), sending=Sending("tiny", url, 4),
          prompt="translate_plain", texts_per_request=1)
"""


def test_a_killed_run_goes_on_without_loss_or_repetition(endpoint: Endpoint, tmp_path: Path) -> None:
    examples, out = captions(60), tmp_path / "out"
    write_records(tmp_path / "in.jsonl", examples)
    endpoint.seconds = 0.05
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(CHILD),
        str(tmp_path / "in.jsonl"),
        str(out),
        endpoint.url,
    ]
    kills = 0
    for wanted in (10, 30):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
        deadline = time.monotonic() + 20
        while len(endpoint.prompts) < wanted and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
    endpoint.seconds = 0.0
    found = run(examples, out, endpoint, texts_per_request=1)
    ids = [example.id for example in read_examples(out / "accepted.jsonl")]
    assert ids == [f"{example.id}:zh" for example in examples]
    assert 0 < found.sent < 60
    # Sent again: at most what was in flight at a kill, or answered within the 50 ms before a commit.
    assert len(endpoint.prompts) - 60 <= kills * 4 * 3, Counter(endpoint.prompts).most_common(3)
    assert status(out)["states"]["done"] == status(out)["requests"] == 60


def test_two_runs_do_not_share_a_ledger(endpoint: Endpoint, tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(ConfigError, match="another forge run"):
        run(captions(1), tmp_path, endpoint)


def test_plain_prompt_is_what_the_tiny_model_reads(endpoint: Endpoint, tmp_path: Path) -> None:
    run([caption("a", "red")], tmp_path / "one", endpoint)
    run([caption("a", "red"), caption("b", "blue")], tmp_path / "two", endpoint)
    assert endpoint.prompts == ["Translate into Chinese:\nred", "Translate into Chinese:\n1. red\n2. blue"]


def test_json_prompt_says_what_to_keep_and_why_it_asks_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fault = lambda number, lines, answer: (200, {}, json.dumps({"translations": ["蓝色"]}))
    run([caption("a", "red")], tmp_path, endpoint, prompt="translate")
    first, second = endpoint.prompts
    assert first.startswith(
        "You translate training data for vision-language models from English into Chinese."
    )
    assert first.endswith('with exactly 1 string, in the same order.\n\n{"texts": ["red"]}')
    assert "refused (color)" in second
    assert rejected(tmp_path) == {"a": ["color"]}
