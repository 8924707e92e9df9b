import json
from pathlib import Path

import pytest
from loopback import Endpoint, Reply, caption

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import read_examples, read_jsonl
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.instruct import instruct, read_dialogue

GOOD = {"turns": [{"question": "有什么？", "answer": "有一只猫。"}]}


def answer(value: object) -> Outcome:
    return Outcome("k", "done", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def test_captions_become_dialogues_once(endpoint: Endpoint, tmp_path: Path) -> None:
    good = json.dumps(GOOD, ensure_ascii=False)
    other = good.replace("有一只猫。", "一只灰色的猫趴在窗边的垫子上，外面下着雨。")

    def reply(number: int, lines: list[str], right: str) -> Reply:
        wanted = "no" if "reasoning beyond" in lines[0] else other if "detailed" in lines[0] else good
        return 200, {}, f"```json\n{wanted}\n```"

    endpoint.fault = reply
    examples = [caption("a", "A cat sits."), caption("b", "A cat on a mat.")]
    options = {
        "kinds": ["conversation", "detail", "reasoning"],
        "lang": "zh",
        "out": tmp_path,
        "sending": Sending("m", endpoint.url),
    }
    report = instruct(examples, **options)
    assert (report["pictures"], report["records"], report["accepted"], report["sent"]) == (1, 3, 2, 3)
    assert report["rejected"] == {"not_json": 1}
    made = read_examples(tmp_path / "accepted.jsonl")
    assert [m.content for m in made[0].messages] == ["有什么？", "有一只猫。"]
    assert (made[0].task, made[0].lang, made[0].image_id) == ("dialogue", "zh", "i")
    assert [row["id"] for _, row in read_jsonl(tmp_path / "rejected.jsonl")] == ["i:reasoning:zh"]
    assert endpoint.prompts[0].endswith("Captions:\n- A cat sits.\n- A cat on a mat.")
    assert instruct(examples, **options)["sent"] == 0
    with pytest.raises(ConfigError, match="did you mean 'detail'"):
        instruct(examples, **{**options, "kinds": ["details"]})


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        ("not_json", "有什么？"),
        ("refusal", "I'm sorry, but I cannot help with that."),
        ("turn_without_question_or_answer", {"turns": [{"question": "有什么？"}]}),
        ("language", {"turns": [{"question": "What is there?", "answer": "A cat."}]}),
        ("mentions_source", {"turns": [{"question": "有什么？", "answer": "根据描述，有一只猫。"}]}),
        ("same_question", {"turns": GOOD["turns"] * 2}),
        ("placeholders", {"turns": [{"question": "<image>有什么？", "answer": "有一只猫。"}]}),
    ],
)
def test_each_fault_of_a_dialogue_has_its_reason(reason: str, value: object) -> None:
    assert read_dialogue(answer(value), "zh")[1] == [reason]
    assert read_dialogue(answer(GOOD), "zh")[1] == []
