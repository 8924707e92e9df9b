from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import score

Save = Callable[[str, Any], Path]
TRUTH = {str(i): {"answer": "dog"} for i in range(40)}


def said(right: int) -> list[dict[str, str]]:
    return [{"questionId": str(i), "prediction": "dog" if i < right else "cat"} for i in range(40)]


def test_the_card_says_how_and_reproduces(save: Save) -> None:
    files = {"annotations": save("a.json", TRUTH), "predictions": save("p.json", said(30))}
    result = score.run("gqa", command="ziya-visual score gqa", **files)
    assert set(result) == {"scores", "failures", "card"}
    assert result["card"]["rule"] == "exact"
    assert result["card"]["command"] == "ziya-visual score gqa"
    low, high = result["card"]["intervals"]["accuracy"]
    assert low < 75.0 < high
    again = score.reproduce(save("out.json", result))
    assert again["equal"], again
    save("p.json", said(31))
    with pytest.raises(DataError, match="its hash has changed"):
        score.reproduce(save("out.json", result))


def test_reproduce_refuses_a_file_without_a_card(save: Save) -> None:
    with pytest.raises(DataError, match="holds no score card"):
        score.reproduce(save("out.json", {"scores": {}}))


def test_compare_is_paired(save: Save) -> None:
    truth = save("a.json", TRUTH)
    table = score.compare(
        "gqa",
        {"annotations": truth, "predictions": save("a1.json", said(20))},
        {"annotations": truth, "predictions": save("b1.json", said(28))},
    )
    row = table["accuracy"]
    assert row["difference"] == pytest.approx(20.0)
    assert 0 < row["low"] < 20 < row["high"]


def test_unknown_form() -> None:
    with pytest.raises(ConfigError, match="did you mean 'caption'"):
        score.run("captions")


@pytest.mark.parametrize("text", ["{", "[1, 2", "hello", ""])
def test_files_of_another_form_end_in_one_line(save: Save, tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        score.run("gqa", annotations=save("a.json", TRUTH), predictions=path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_translation(tmp_path: Path) -> None:
    for name, text in (("r.txt", "一只狗在草地上\n两只猫\n"), ("p.txt", "一只狗在草地上\n三只猫\n")):
        (tmp_path / name).write_text(text, "utf-8")
    files = {"references": tmp_path / "r.txt", "predictions": tmp_path / "p.txt"}
    result = score.run("translation", **files, lang="zh")
    assert 0 < result["scores"]["BLEU"] < 100
    assert "tok:zh" in result["card"]["notes"]["signature_BLEU"]
    (tmp_path / "p.txt").write_text("一只狗\n", "utf-8")
    with pytest.raises(DataError, match="1 lines against 2"):
        score.run("translation", **files)
