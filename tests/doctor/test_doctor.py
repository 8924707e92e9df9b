"""The doctor on machines and recipes: it finds what is broken and writes nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from doctor_cases import one_stage, plan, recipe

from ziya_visual.core.files import write_json
from ziya_visual.doctor import examine, machine
from ziya_visual.doctor.machine import examine_machine
from ziya_visual.doctor.recipe import examine_data, examine_recipe


@pytest.mark.slow
def test_a_sound_recipe_is_timed_and_nothing_is_written(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    completed = cli(folder / "recipe.yaml", "--json", "--gpus", "2")
    assert completed.returncode == 0, completed.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    report = json.loads(completed.stdout)
    (source,) = report["recipe"]["data"]
    assert source["by_task_and_lang"] == {"caption/en": 4, "caption/zh": 4, "vqa/en": 4, "vqa/zh": 4}
    assert (source["pictures"], source["decoded"], source["rejects"]) == (4, 4, 0)
    for row in report["recipe"]["stages"]:
        assert row["finite"]
        assert row["seconds_per_step"] > 0
        assert row["seconds"] == pytest.approx(5 * row["seconds_per_step"])
        assert set(row["needed_bytes"]) == {"cpu", "gpu", "ddp 2", "fsdp 2"}
        assert row["needed_bytes"]["ddp 2"] < row["needed_bytes"]["gpu"]
    assert report["problems"] == []


def cli(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ziya_visual", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def spoil(folder: Path, how: str) -> list[str]:
    """Write the bad input and return the changes that point a recipe to it."""
    rows = (folder / "data.jsonl").read_text().splitlines()
    bad = folder / f"{how.replace(' ', '-')}.jsonl"
    if how == "no file":
        return [f"data.path=[{folder}/absent.jsonl]"]
    if how == "no folder table":
        (folder / "empty").mkdir(exist_ok=True)
        return [f"data.path=[{folder}/empty]"]
    if how == "unknown task":
        return ["stages.0.tasks={captoin: 1.0}"]
    if how == "no such task":
        return ["stages.0.tasks={caption: 1.0, dialogue: 1.0}"]
    if how == "no model":
        return ["model.checkpoint=null"]
    if how == "absent picture":
        text = "\n".join(rows).replace("red.png", "gone.png")
    elif how == "broken picture":
        (folder / "broken.png").write_text("no picture")
        text = "\n".join(rows).replace("red.png", "broken.png")
    elif how == "no records":
        text = "{}\n{"
    else:
        assert how == "no templates"
        text = "\n".join(rows).replace('"lang": "zh"', '"lang": "xx"')
    bad.write_text(text)
    return [f"data.path=[{bad}]"]


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ("no file", r"absent\.jsonl: cannot be read"),
        ("no folder table", r"there is no captions\.csv"),
        ("unknown task", r"stage align: tasks: unknown task 'captoin'; did you mean 'caption'\?"),
        ("no such task", r"stage align: tasks: no record has the task 'dialogue'"),
        ("no model", r"model: give a checkpoint, or both"),
        ("absent picture", r"1 of 4 pictures do not exist, the first is .*gone\.png"),
        ("broken picture", r"broken\.png: not a readable image"),
        ("no records", r"none of 2 rows is a record, the first at no-records\.jsonl:1: "),
        ("no templates", r"no instruction templates for language 'xx'"),
    ],
)
def test_bad_input_of_a_recipe_is_one_line(
    folder: Path, how: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ziya_visual.doctor.recipe._stages", lambda *_: [])  # its seconds are not needed
    report = examine_recipe(recipe(folder, *spoil(folder, how)), examine_machine(), gpus=None)
    assert any(re.search(pattern, line) for line in report.problems), report.problems
    assert all("\n" not in line for line in report.problems)
    assert str(report.facts["probe"]).startswith("not probed")


def test_rows_that_training_leaves_out_are_counted(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "data.jsonl").read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join([*rows, '{"id": "x"}', "{"]))
    problems: list[str] = []
    _, (source,) = examine_data(recipe(folder, f"data.path=[{tmp_path / 'some.jsonl'}]"), problems)
    assert (source["records"], source["rejects"], problems) == (len(rows), 2, [])
    assert source["first_rejects"][0].startswith("some.jsonl:17: ")


def test_what_cannot_be_used_ends_with_code_2_and_its_line(folder: Path, tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text((folder / "recipe.yaml").read_text().replace("precision", "precison"))
    completed = cli(typo, "--json")
    assert completed.returncode == 2
    assert json.loads(completed.stdout)["problems"] == [
        f"{typo}: unknown key 'precison'; did you mean 'precision'?"
    ]
    assert completed.stderr.splitlines() == [
        f"error: {typo}: unknown key 'precison'; did you mean 'precision'?"
    ]
    assert "not found; give a recipe file" in examine(tmp_path / "absent")["problems"][0]
    assert "need a recipe file" in examine(tmp_path, gpus=2)["problems"][0]


def test_a_dropout_that_training_turns_off_is_no_fault(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "checkpoint").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["qformer_config"]["attention_probs_dropout_prob"] = 0.1
    write_json(tmp_path / "config.json", config)
    changed = recipe(folder, f"model.checkpoint={tmp_path}")
    report = examine_recipe(changed, examine_machine(), gpus=None)
    assert not report.problems


@pytest.mark.slow
def test_each_advice_saves_what_it_says(folder: Path) -> None:
    here = examine_machine()
    needed = plan(folder, settings=one_stage(folder)).needed(0, "cpu")
    here["ram"]["available_bytes"] = int(0.75 * needed / 0.9)
    report = examine_recipe(one_stage(folder), here, gpus=None)
    (line,) = report.problems
    assert re.search(r"stage base: needs [\d.]+ MiB on cpu", line)
    assert report.facts["probe"].startswith("not probed")
    kinds = {row["change"].split("=")[0].removeprefix("stages.0.") for row in report.advice}
    assert kinds == {
        "precision",
        "images_at_once",
        "images_per_step",
        "texts_per_image",
        "model.lora.rank",
    }, report.advice
    for row in report.advice:
        change = row["change"].replace("stages.0", "stages.1")  # where it stands in the file
        after = plan(folder, settings=one_stage(folder, change)).needed(0, "cpu")
        assert needed - after == row["saves_bytes"] > 0
        assert row["fits"] == (after <= 0.9 * here["ram"]["available_bytes"])
    assert any(row["fits"] for row in report.advice)


def test_gpus_that_are_too_small_for_one_are_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziya_visual.doctor.advice._changes", lambda *_: {})  # other advice takes seconds
    here, planned = examine_machine(), plan(folder, settings=one_stage(folder))
    one, two = planned.needed(0, "gpu"), planned.needed(0, "fsdp", 2)
    assert two < one
    here["cuda"] = [{"name": "tiny", "total_bytes": int((one + two) / 2 / 0.9), "free_bytes": 0}]
    report = examine_recipe(planned.recipe, here, gpus=1)
    assert report.facts["fits"] == {"cpu": True, "gpu": False}
    row = {
        "form": "gpu",
        "stage": "base",
        "change": "shard=true on 2 GPUs",
        "saves_bytes": one - two,
        "fits": True,
    }
    assert report.advice == [row]


def test_a_full_disk_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziya_visual.doctor.recipe.disk_free", lambda _: 1000)
    report = examine_recipe(one_stage(folder), examine_machine(), gpus=None)
    (line,) = report.problems
    assert re.fullmatch(
        r"out: .*/run will take [\d.]+ MiB, but only 1000 B are free there; choose another folder with out=",
        line,
    )


def test_the_machine_is_told_and_a_container_s_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    found = examine_machine()
    assert found["versions"]["torch"] == torch.__version__
    assert found["ram"]["available_bytes"] <= found["ram"]["total_bytes"] == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29 + 2**28}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    assert examine_machine()["ram"] == {"total_bytes": 2**30, "available_bytes": 2**29}


def test_what_is_missing_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=99", "absent-package>=1", "gradio-absent>=2; extra == 'web'"]
    monkeypatch.setattr(machine, "requires", lambda _: lines)
    report = examine(None)
    assert len(report["problems"]) == 2
    assert "expected torch>=99; pip install 'torch>=99'" in report["problems"][0]
    assert "absent-package is not installed" in report["problems"][1]
    row = {"package": "gradio-absent", "for": "web", "install": "pip install 'ziya-visual[web]'"}
    assert row in report["machine"]["missing"]
