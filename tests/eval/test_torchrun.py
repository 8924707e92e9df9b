"""Two processes of ``torchrun`` share the work and give the numbers that one gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import folders
import published
import pytest

from ziya_visual.core import distributed
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import read_json, read_jsonl
from ziya_visual.eval.models.open import open_model
from ziya_visual.eval.run import run_suite


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    folders.ours(tmp_path / "ours")
    data = published.everything(tmp_path / "data")
    suite = folders.suite(tmp_path / "pictures")
    asked = [str(suite), "paper-zh", "qa90"]
    one = run_suite(tmp_path / "ours", *asked, out=tmp_path / "one", data=data)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ziya_visual"]
    command += ["eval", str(tmp_path / "ours"), "--out", str(tmp_path / "two"), "--data", str(data)]
    command += [part for name in asked for part in ("--suite", name)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("new/en/vqa/accuracy") == 1, "the second process says nothing"
    two = read_json(tmp_path / "two" / "results.json")
    assert (one["card"]["processes"], two["card"]["processes"]) == (1, 2)
    assert two["metrics"] == one["metrics"]
    said: dict[str, Any] = {}
    for name in ("one", "two"):
        files = sorted((tmp_path / name).glob("predictions/*.jsonl"))
        said[name] = {path.name: [row["prediction"] for _, row in read_jsonl(path)] for path in files}
        said[f"{name} kept"] = sorted(key for _, (key, _) in read_jsonl(tmp_path / name / "answers.jsonl"))
    assert said["one"] == said["two"]
    assert said["one kept"] == said["two kept"], "every question was answered by one of the processes"


def test_an_endpoint_is_asked_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with (
        pytest.raises(ConfigError, match="start eval without torchrun"),
        open_model("m@http://127.0.0.1:1/v1", out=tmp_path),
    ):
        pass
