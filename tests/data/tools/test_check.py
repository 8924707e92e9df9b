"""Checking, mending, counting, looking at and splitting a dataset."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import write_records
from ziya_visual.core.records import Box, Example, ImageRef, Message
from ziya_visual.data.dataset import iter_records, write_dataset
from ziya_visual.data.formats import Reject
from ziya_visual.data.tools.check import check_dataset
from ziya_visual.data.tools.inspect import dataset_stats, write_page
from ziya_visual.data.tools.split import split_dataset


def noise(folder: Path, name: str, seed: int) -> ImageRef:
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8))
    coarse.resize((240, 180), Image.Resampling.BICUBIC).save(folder / name)
    return ImageRef(path=str(folder / name))


def said(id: str, image: ImageRef | None, text: str = "a thing", **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "lang": "en", "task": "caption", "messages": (Message("assistant", text),), "image": image,
        "image_id": None if image is None else Path(str(image.path)).name,
    }  # fmt: skip
    return Example(id, **(fields | changes))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four good records, and one for each thing that can be wrong."""
    a, b = noise(tmp_path, "a.png", 0), noise(tmp_path, "b.png", 1)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    question = (Message("user", "What?"), Message("assistant", "red"))
    rows = [
        said("1", a),
        said("2", a, "另一个", lang="zh", source="x"),
        said("3", b, boxes=(Box("all", (0, 0, 240, 180)),)),
        said("4", b, task="vqa", messages=question, answers=("red",), meta={"split": "val"}),
        said("1", b),
        said("6", ImageRef(path=str(tmp_path / "broken.png"))),
        said("7", ImageRef(path=str(tmp_path / "absent.png"))),
        said("8", a, image_id="b.png"),
        said("9", a, boxes=(Box("out", (250, 0, 280, 9)),)),
        said("10", a, "  "),
        said("11", a, lang="English"),
        said("12", a, messages=(Message("user", "What?"),)),
        said("13", a, messages=(*question, question[1])),
        said("14", a, " spaced "),
        said("15", a, boxes=(Box("over", (-3, 0, 280, 9)),)),
        said("16", a, image_id=None),
    ]
    path = tmp_path / "data.jsonl"
    write_records(path, rows)
    path.write_text(path.read_text() + "no json\n" + '{"id": "18"}\n')
    return path


def test_every_row_is_kept_or_rejected_with_its_reason(dataset: Path, tmp_path: Path) -> None:
    report = check_dataset(dataset, out=tmp_path / "out")
    assert report.records == 4
    reasons = {row["id"] or row["where"]: row["reason"] for row in report.rejects}
    assert len(reasons) == 14
    for key, text in {
        "1": "an earlier record has the same id", "6": "broken.png: not a readable image",
        "7": "absent.png: cannot be read",
        "8": "image_id 'b.png' is another image", "9": "'out' is empty or outside the 240 x 180",
        "10": "a turn is empty",
        "11": "language 'English'", "12": "neither an assistant turn", "13": "do not alternate",
        "14": "spaces around a turn (--fix repairs it)", "15": "extends beyond the image (--fix",
        "16": "without image_id", "data.jsonl:17": "invalid JSON", "data.jsonl:18": "missing fields",
    }.items():  # fmt: skip
        assert text in reasons[key], key
    written = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert written == report.rejects
    assert not list((tmp_path / "out").glob("records*"))


def test_fix_repairs_records_and_lists_the_repairs(dataset: Path, tmp_path: Path) -> None:
    report = check_dataset(dataset, out=tmp_path / "out", fix=True)
    assert (report.records, len(report.rejects)) == (7, 11)
    assert [row["id"] for row in report.fixes] == ["14", "15", "16"]
    found = {one.id: one for one in iter_records(tmp_path / "out") if isinstance(one, Example)}
    assert found["14"].messages[0].content == "spaced"
    assert found["15"].boxes[0].xyxy == (0, 0, 240, 9)
    assert found["16"].image_id is not None
    assert json.loads((tmp_path / "out/manifest.json").read_text())["by_task_and_lang"]["caption/en"] == 5
    again = check_dataset(tmp_path / "out", out=tmp_path / "again")
    assert (again.records, again.rejects) == (7, [])


def test_pictures_of_an_evaluation_are_taken_out(dataset: Path, tmp_path: Path) -> None:
    held = said("held", noise(tmp_path, "copy.jpg", 0))
    write_records(tmp_path / "held.jsonl", [held])
    report = check_dataset(dataset, out=tmp_path / "out", fix=True, against=tmp_path / "held.jsonl")
    assert all(
        "a.png" not in str(one.image) for one in iter_records(tmp_path / "out") if isinstance(one, Example)
    )
    assert sum("of the evaluation (near copy" in row["reason"] for row in report.rejects) >= 2


def test_counts(dataset: Path) -> None:
    found = dataset_stats(dataset)
    assert (found["records"], found["rejects"], found["without_picture"]) == (16, 2, 1)
    assert found["by_task_and_lang"] == {"caption/English": 1, "caption/en": 13, "caption/zh": 1, "vqa/en": 1}
    assert found["by_split"] == {"": 15, "val": 1}
    assert found["top_answers"] == {"red": 1}
    assert found["turns"]["max"] == 3
    json.dumps(found, allow_nan=False)


def test_the_sheet_holds_pictures_texts_and_what_is_wrong(dataset: Path, tmp_path: Path) -> None:
    evil = said("evil", None, "<script>alert(1)</script>", image_id=None, task="text")
    dataset.write_text(dataset.read_text() + json.dumps(json.loads(_line(evil, tmp_path))) + "\n")
    shown = write_page(dataset, tmp_path / "page.html", count=50)
    page = (tmp_path / "page.html").read_text()
    assert shown == 6, "a, b, broken, absent, one without id, one without picture"
    assert page.count("data:image/jpeg;base64,") == 3
    assert "另一个" in page
    assert "broken.png: not a readable image" in page
    assert "invalid JSON" in page
    assert "<script>alert" not in page
    assert "left:0.00%;top:0.00%;width:100.00%;height:100.00%" in page
    assert "http" not in page.replace("https://", ""), "nothing is fetched"
    assert write_page(dataset, tmp_path / "page.html", count=2) == 2


def _line(example: Example, folder: Path) -> str:
    write_records(folder / "one.jsonl", [example])
    return (folder / "one.jsonl").read_text()


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_split_by_picture_keeps_copies_together(tmp_path: Path, form: Any) -> None:
    rows = []
    for number in range(20):
        image = noise(tmp_path, f"{number}.png", number)
        rows += [said(f"{number}-{text}", image, f"text {text}") for text in range(3)]
        with Image.open(tmp_path / f"{number}.png") as picture:  # a smaller copy under another id
            picture.resize((120, 90)).save(tmp_path / f"{number}.jpg")
        rows.append(said(f"{number}-copy", ImageRef(path=str(tmp_path / f"{number}.jpg"))))
    rows += [
        said(f"t{number}", None, f"text {number % 5}", image_id=None, task="text") for number in range(20)
    ]
    write_dataset(tmp_path / "all", rows, form)
    made = split_dataset(tmp_path / "all", out=tmp_path / "split", heldout=0.3, seed=1)
    sides = {
        side: {one.id for one in iter_records(tmp_path / "split" / side) if isinstance(one, Example)}
        for side in ("train", "heldout")
    }
    assert sides["train"] | sides["heldout"] == {row.id for row in rows}
    assert not sides["train"] & sides["heldout"]
    assert 1 <= sum(f"{number}-0" in sides["heldout"] for number in range(20)) <= 14
    for number in range(20):
        own = {f"{number}-{text}" for text in (0, 1, 2, "copy")}
        assert own <= sides["train"] or own <= sides["heldout"]
    for text in range(5):
        own = {f"t{number}" for number in range(20) if number % 5 == text}
        assert own <= sides["train"] or own <= sides["heldout"]
    for side, ids in sides.items():
        assert made[side]["records"] == len(ids)
        assert json.loads((tmp_path / "split" / side / "manifest.json").read_text()) == made[side]
    again = split_dataset(tmp_path / "all", out=tmp_path / "split", heldout=0.3, seed=1)
    assert again["heldout"]["files"] == made["heldout"]["files"]
    with pytest.raises(DataError, match="no record for heldout; heldout is 0"):
        split_dataset(tmp_path / "all", out=tmp_path / "split", heldout=0)
    assert not any(isinstance(one, Reject) for one in iter_records(tmp_path / "split/train"))


def test_no_folder_of_others_is_replaced(dataset: Path, tmp_path: Path) -> None:
    check_dataset(dataset, out=tmp_path / "out", fix=True)
    for out in (tmp_path, tmp_path / "out", dataset):
        for run in (check_dataset, split_dataset):
            with pytest.raises(ConfigError, match="name another folder"):
                run(tmp_path / "out", out=out)
    assert (tmp_path / "a.png").is_file()


def test_the_commands_one_after_the_other(dataset: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ziya_visual.cli.data import data

    def run(*arguments: object, code: int = 0) -> str:
        done = CliRunner().invoke(data, [str(argument) for argument in arguments])
        assert done.exit_code == code, done.output
        return done.output

    few = ("--images", 3, "--questions", 2, "--dialogues", 1)
    run("scenes", "--out", tmp_path / "drawn", *few, "--langs", "en,es")
    drawn = json.loads(run("stats", tmp_path / "drawn", "--json"))
    assert drawn["pictures"] == 3
    assert drawn["by_task_and_lang"]["dialogue/es"] == drawn["by_task_and_lang"]["dialogue/en"] == 1
    out = tmp_path / "checked"
    assert "an earlier record has the same id" in run("check", dataset, "--out", out, code=1)
    assert "fixes                            3" in run("check", dataset, "--out", out, "--fix")
    assert json.loads(run("stats", out, "--json"))["records"] == 7
    assert "by_task_and_lang" in run("stats", out)
    run("inspect", out, "--out", tmp_path / "page.html", "--count", 2)
    assert (tmp_path / "page.html").is_file()
    run("split", out, "--out", tmp_path / "split", "--heldout", 0.5, "--seed", 0)
    assert (tmp_path / "split/train/manifest.json").is_file()
    lines = tmp_path / "captions.csv"
    lines.write_text("image,lang,text\na.png,en,one\nb.png,zh,二\nbroken.png,en,three\n")
    assert "rejects                          1" in run(
        "import", "folder", tmp_path, "--out", tmp_path / "new"
    )
    assert run("import", "hub", dataset, "--out", out, "--columns", "text", code=1) == ""
