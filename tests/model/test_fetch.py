"""A hub id is fetched once, safetensors before pickles; here from a hub that a test makes up."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from httpx2 import ConnectError

from ziya_visual.core.errors import CheckpointError
from ziya_visual.model.build.init import init
from ziya_visual.model.checkpoint import load_checkpoint, local_folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Repositories by id -> folders; ``asked`` holds the patterns of each fetch."""
    state: dict[str, Any] = {"folders": {}, "asked": [], "online": True}

    def list_repo_files(name: str) -> list[str]:
        if not state["online"]:
            raise ConnectError("no route to host")
        if name not in state["folders"]:
            raise OSError(f"404: repository {name}\nnot found")
        return [path.name for path in state["folders"][name].iterdir()]

    def snapshot_download(name: str, **options: Any) -> str:
        if name not in state["folders"]:
            raise FileNotFoundError(name)
        state["asked"].append(options)
        return str(state["folders"][name])

    monkeypatch.setattr("huggingface_hub.list_repo_files", list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return state


def test_parts_come_from_the_hub(tmp_path: Path, hub: dict[str, Any]) -> None:
    tiny.ziya_folder(tmp_path / "ziya")
    tiny.llm_folder(tmp_path / "llama")
    hub["folders"] = {"IDEA-CCNL/Ziya": tmp_path / "ziya", "meta/llama": tmp_path / "llama"}
    init(bridge="IDEA-CCNL/Ziya", llm="meta/llama", out=tmp_path / "out")
    load_checkpoint(tmp_path / "out")
    patterns = [fetch["allow_patterns"] for fetch in hub["asked"]]
    assert "*.bin" in patterns[0]
    assert "*.safetensors" in patterns[1]
    assert "*.bin" not in patterns[1]


def test_what_was_fetched_before_opens_offline(tmp_path: Path, hub: dict[str, Any]) -> None:
    hub |= {"folders": {"meta/llama": tmp_path}, "online": False}
    assert local_folder("meta/llama") == tmp_path
    assert hub["asked"] == [{"local_files_only": True}]
    with pytest.raises(
        CheckpointError, match="other/llama: no such folder, and fetching it from the hub failed"
    ):
        local_folder("other/llama")


def test_an_unknown_repository_is_one_line(hub: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointError, match=r"fetching it from the hub failed \(404: repository a/b not found\)"
    ):
        local_folder("a/b")
