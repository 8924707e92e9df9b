"""Where the official results are; tests that need them skip when they are absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real prediction files with officially computed results, beside the repository."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is absent: no official results to compare with")
    return path


@pytest.fixture(scope="session")
def expected(shared: Path) -> Callable[[str], Any]:
    """The official results of a folder."""
    return lambda name: json.loads((shared / name / "expected.json").read_text())


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return ROOT / "tests" / "fixtures" / "eval"


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write JSON, or JSONL where the name says so, and return the path."""

    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value), "utf-8")
        else:
            path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
        return path

    return write
