from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ziya_visual.cli.app import app
from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import score

Save = Callable[[str, Any], Path]
TRUTH = {str(i): {"answer": "dog"} for i in range(40)}


def said(right: int) -> list[dict[str, str]]:
    return [{"questionId": str(i), "prediction": "dog" if i < right else "cat"} for i in range(40)]


def test_every_form_is_told_of() -> None:
    told = " ".join(CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).output.split())
    docs = Path(__file__).parents[3] / "docs"
    pages = (docs / "evaluation.md").read_text("utf-8") + (docs / "judge.md").read_text("utf-8")
    for form in score.FORMS:
        assert re.search(rf"\b{form}\b", told), f"--help does not name {form}"
        assert f"`{form}`" in pages or f"`score {form}" in pages, f"no page tells of {form}"


def test_the_card_says_how_and_reproduces(save: Save) -> None:
    files = {"annotations": save("a.json", TRUTH), "predictions": save("p.json", said(30))}
    result = score.compute("gqa", command="ziya-visual score gqa", **files)
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
    with pytest.raises(DataError, match="has no score card"):
        score.reproduce(save("out.json", {"scores": {}}))


def test_reproduce_finds_files_that_moved_with_the_card_and_says_what_changed(
    save: Save, tmp_path: Path
) -> None:
    files = {"annotations": save("a.json", TRUTH), "predictions": save("p.json", said(30))}
    result = score.compute("gqa", **files)
    result["scores"]["accuracy"] = 80.0
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in files.values():
        path.rename(moved / path.name)
    (moved / "out.json").write_text(json.dumps(result))
    again = score.reproduce(moved / "out.json")
    assert not again["equal"]
    assert again["different"] == {"accuracy": [80.0, 75.0]}
    (moved / "p.json").unlink()
    with pytest.raises(DataError, match=r"p\.json \(predictions\) no longer exists"):
        score.reproduce(moved / "out.json")


def test_compare_is_paired(save: Save) -> None:
    truth = save("a.json", TRUTH)
    systems = save("a1.json", said(20)), save("b1.json", said(28)[:-1])
    result = score.compute("gqa", annotations=truth, compare=systems)
    scores = result["scores"]
    assert (scores["accuracy/first"], scores["accuracy/second"]) == (50.0, 70.0)
    assert scores["accuracy/difference"] == pytest.approx(20.0)
    # 8 of 40 differ, always one way: 12 wide at each side, where unpaired it would be 21.
    assert 0 < scores["accuracy/low"] < 20 < scores["accuracy/high"]
    assert scores["accuracy/high"] - scores["accuracy/low"] < 32
    assert result["failures"] == {"second/missing": 1}
    assert score.reproduce(save("out.json", result))["equal"]


def test_compare_takes_the_cards_of_two_rules(save: Save) -> None:
    files = {"annotations": save("a.json", TRUTH), "predictions": save("p.json", [
        {"questionId": str(i), "prediction": "Dog." if i % 2 else "dog"} for i in range(40)
    ])}  # fmt: skip
    cards = tuple(
        save(f"{rule}.json", score.compute("gqa", **files, rule=rule)) for rule in ("exact", "llava")
    )
    result = score.compute("gqa", compare=cards)
    assert result["scores"]["accuracy/difference"] == 50.0
    assert result["card"]["options"] == {"first.rule": "exact", "second.rule": "llava"}


def test_per_item_gives_every_score_of_every_item(save: Save) -> None:
    files = {"annotations": save("a.json", TRUTH), "predictions": save("p.json", said(1))}
    result = score.compute("gqa", **files, per_item=True)
    assert len(result["per_item"]) == 40
    assert result["per_item"]["0"] == {"accuracy": 100.0}
    assert result["per_item"]["1"] == {"accuracy": 0.0}


def test_questions_of_one_picture_are_drawn_together(save: Save) -> None:
    alone = {str(i): {"answer": "dog"} for i in range(40)}
    together = {str(i): {"answer": "dog", "imageId": str(i // 20)} for i in range(40)}
    predictions = save("p.json", said(20))
    intervals = [
        score.compute("gqa", annotations=save("a.json", truth), predictions=predictions)["card"]["intervals"]
        for truth in (alone, together)
    ]
    assert intervals[0]["accuracy"][0] > 30
    assert intervals[1]["accuracy"] == [0.0, 100.0]


def test_the_command_line_writes_compares_and_reproduces(save: Save, tmp_path: Path) -> None:
    truth, out = str(save("a.json", TRUTH)), str(tmp_path / "out" / "o.json")
    systems = [str(save(f"{n}.json", said(n))) for n in (20, 30)]

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    shown = command(
        "score", "gqa", "--annotations", truth, "--predictions", systems[0], "--out", out, "--per-item"
    )
    assert re.search(r"accuracy +50\.0000", shown)
    assert len(json.loads(Path(out).read_text())["per_item"]) == 40
    assert re.search(r"accuracy +50\.0000", command("reproduce", out))
    assert re.search(
        r"accuracy/difference +25\.0000",
        command("score", "gqa", "--annotations", truth, "--compare", *systems),
    )


def test_unknown_form() -> None:
    with pytest.raises(ConfigError, match="did you mean 'caption'"):
        score.compute("captions")


@pytest.mark.parametrize("text", ["{", "[1, 2", "hello", ""])
def test_files_of_another_form_end_in_one_line(save: Save, tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        score.compute("gqa", annotations=save("a.json", TRUTH), predictions=path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_translation(tmp_path: Path) -> None:
    for name, text in (("r.txt", "一只狗在草地上\n两只猫\n"), ("p.txt", "一只狗在草地上\n三只猫\n")):
        (tmp_path / name).write_text(text, "utf-8")
    files = {"references": tmp_path / "r.txt", "predictions": tmp_path / "p.txt"}
    result = score.compute("translation", **files, lang="zh")
    assert 0 < result["scores"]["BLEU"] < 100
    assert "tok:zh" in result["card"]["notes"]["signature_BLEU"]
    assert result["card"]["versions"]["sacrebleu"]
    (tmp_path / "p.txt").write_text("一只狗\n", "utf-8")
    with pytest.raises(DataError, match="1 lines against 2"):
        score.compute("translation", **files)


def test_translation_equals_sacrebleu_and_its_interval_is_around_it(tmp_path: Path) -> None:
    import sacrebleu

    truth = [f"the {color} {thing} stands near a {other}" for color in ("red", "blue") for thing in
             ("dog", "cat", "house") for other in ("tree", "car")]  # fmt: skip
    lines = [line.replace("near a", "by the") if i % 3 else line for i, line in enumerate(truth)]
    lines[-1] = ""
    for name, text in (("r.txt", truth), ("p.txt", lines)):
        (tmp_path / name).write_text("\n".join(text) + "\n")
    result = score.compute("translation", references=tmp_path / "r.txt", predictions=tmp_path / "p.txt")
    assert result["scores"]["BLEU"] == sacrebleu.corpus_bleu(lines, [truth]).score
    assert result["scores"]["chrF"] == sacrebleu.corpus_chrf(lines, [truth]).score
    low, high = result["card"]["intervals"]["BLEU"]
    assert low < result["scores"]["BLEU"] < high
    assert result["failures"] == {"empty": 1}
