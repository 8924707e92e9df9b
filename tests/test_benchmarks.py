"""Benchmarks that need a GPU or an hour are tried where there is neither."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_and_both_sides_agree(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_train.py"),
        "--tiny",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["losses"]["ours"] == pytest.approx(found["losses"]["stock"], rel=2e-3)  # bfloat16
    assert found["ratio"]["median"] > 0
    assert found["mfu"] is None


def test_the_gpu_benchmark_imports_little() -> None:
    """Such a machine may have torch, transformers, peft and accelerate alone."""
    absent = [
        "pydantic",
        "typer",
        "rich",
        "openai",
        "httpx",
        "jieba",
        "sacrebleu",
        "fastapi",
        "PIL",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}, None)); "
        f"sys.path.insert(0, {str(BENCHMARKS)!r}); import gpu_train"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
