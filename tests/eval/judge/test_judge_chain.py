"""The whole chain, judge to leaderboard: on the real qa90 files, and killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judge_server import JudgeServer
from typer.testing import CliRunner

from ziya_visual.cli.app import app
from ziya_visual.core.files import read_json, read_jsonl
from ziya_visual.eval import score
from ziya_visual.eval.judge.leaderboard import leaderboard
from ziya_visual.eval.judge.run import judge

Save = Callable[[str, Any], Path]


def test_real_qa90_in_both_languages(shared: Path, judge_server: JudgeServer, tmp_path: Path) -> None:
    qa90 = shared / "judge" / "qa90"
    for end, rules in (("", "rule.json"), ("_zh", "rule_zh.json")):
        answers = [row for _, row in read_jsonl(qa90 / f"qa90_gpt4_answer{end}.jsonl")]
        half = tmp_path / f"half{end}.jsonl"
        half.write_text(
            "".join(json.dumps(r | {"text": r["text"][: len(r["text"]) // 2 + 1]}) + "\n" for r in answers)
        )
        card = judge(
            questions=qa90 / f"qa90_questions{end}.jsonl", answers=[half], rules=qa90 / rules,
            reference=qa90 / f"qa90_gpt4_answer{end}.jsonl", protocol="relative",
            context=qa90 / f"caps_boxes_coco2014_val_80{end}.jsonl",
            judge=judge_server.sending, out=tmp_path / f"out{end}",
        )  # fmt: skip
        assert (card["reviews"], card["failures"], card["unanswered"]) == (90, 0, {})
        scores = score.compute("judge", reviews=tmp_path / f"out{end}" / "reviews.jsonl")["scores"]
        assert {"conv", "detail", "complex"} <= set(scores)
    assert sum("两个人工智能助手" in prompt for prompt in judge_server.prompts) == 90
    board = leaderboard([tmp_path / "out", tmp_path / "out_zh"], out=tmp_path / "board")["judges"][0]
    langs = {(table["lang"], table["category"]) for table in board["tables"]}
    assert {("", ""), ("en", ""), ("zh", ""), ("en", "conv"), ("zh", "complex")} <= langs


def test_the_chain_killed_and_resumed_pays_no_pair_twice(
    save: Save, judge_server: JudgeServer, tmp_path: Path
) -> None:
    count, concurrency = 60, 4
    files = {
        "questions": save("q.jsonl", [{"question_id": n, "text": f"What is {n}?"} for n in range(count)])
    }
    for name in ("a", "b"):
        rows = [
            {"question_id": n, "text": f"{name} {n} " * (1 + n % 3 + (name == "a"))} for n in range(count)
        ]
        files[name] = save(f"{name}.jsonl", rows)
    out = tmp_path / "out"
    judge_server.seconds = 0.03
    command = [
        sys.executable, "-m", "ziya_visual", "judge", "--questions", str(files["questions"]),
        "--answers", str(files["a"]), "--answers", str(files["b"]), "--protocol", "pairwise",
        "--judge", judge_server.judge, "--out", str(out), "--concurrency", str(concurrency),
    ]  # fmt: skip
    kills = 0
    for wanted in (20, 70):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(judge_server.bodies) < wanted and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not (out / "reviews.jsonl").exists()
        kills += 1
    judge_server.seconds = 0.0
    subprocess.run(command, check=True, capture_output=True)
    asked = Counter(json.dumps(body, sort_keys=True) for body in judge_server.bodies)
    assert len(asked) == 2 * count
    # What was in flight when the process died, only the server can know; nothing else is sent again.
    assert sum(asked.values()) - 2 * count <= kills * concurrency, asked.most_common(3)
    card, sent = read_json(out / "judge.json"), len(judge_server.bodies)
    assert (card["reviews"], card["failures"]) == (2 * count, 0)
    board, scores = tmp_path / "board", tmp_path / "s.json"
    for arguments in (
        command[3:],
        ["score", "judge", "--reviews", str(out / "reviews.jsonl"), "--out", str(scores)],
        ["leaderboard", str(out), "--out", str(board)],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert len(judge_server.bodies) == sent, "asking again, scoring and ranking cost nothing"
    assert read_json(scores)["scores"]["failures"] == 0
    assert "tiny, pairwise: ranked" in done.output
    assert read_json(board / "leaderboard.json")["judges"][0]["tables"][0]["rows"][0]["model"] == "a"
