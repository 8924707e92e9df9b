"""Suites by name: published formats in, official formats and the official numbers out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import folders
import published
import pytest
from PIL import Image
from typer.testing import CliRunner

from ziya_visual.cli.app import app
from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import read_json
from ziya_visual.core.records import Example
from ziya_visual.eval import score
from ziya_visual.eval.judge.files import read_model_answers, read_questions
from ziya_visual.eval.metrics import choice, vqa
from ziya_visual.eval.models.open import EvalModel, is_ours
from ziya_visual.eval.report.page import PUBLISHED
from ziya_visual.eval.results import published_results
from ziya_visual.eval.run import EvalRun, run_suite
from ziya_visual.eval.suites import build_scenes
from ziya_visual.eval.suites.named import FOLDER, Prompt, load_named, names
from ziya_visual.scenes import dataset as scenes


class Knowing:
    """Answers by picture, in the order in which the pictures were made; notes what it was asked."""

    def __init__(self, said: Sequence[str]) -> None:
        self.said = said
        self.asked: list[str] = []
        self.seen: list[list[str]] = []

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        assert images is not None
        self.asked += [example.messages[-1].content for example in examples]
        self.seen.append([str(example.image_id) for example in examples])
        assert all(images[name].size == (16, 16) for name in self.seen[-1])
        order = list(dict.fromkeys(self.seen[-1]))
        return [self.said[order.index(str(example.image_id))] for example in examples]


def measure(
    suite: str, name: str, task: str, folder: Path, out: Path, said: Sequence[str], *, plain: bool = False
) -> tuple[EvalRun, Knowing, dict[str, float]]:
    model = Knowing(said)
    named = load_named(suite)
    dataset = next(one for one in named.datasets if (one.name, one.task) == (name, task))
    assert dataset.missing(folder) == ""
    measured = EvalRun(EvalModel("stub", "stock", model, plain=plain), out, folder)
    measured.add_dataset(dataset, named.prompt(dataset))
    return measured, model, {row.name: row.value for row in measured.metrics}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    folders.ours(folder)
    return folder


def test_vqa_is_scored_by_the_official_rule_and_another(data: Path, tmp_path: Path) -> None:
    said = ("red", "yellow", "green", "two")
    measured, model, scores = measure("paper-en", "vqav2", "vqa", data, tmp_path, said)
    # Right, wrong, right, and the official mean over nine of ten annotators: (2 x 1/3 + 8 x 2/3) / 10.
    assert scores["overall"] == pytest.approx(65.0, abs=0.01)
    assert set(scores) == {"overall", "answer_type/other", "overall[lavis]"}
    assert model.asked[0] == "what?\nAnswer the question using a single word or phrase."
    official = read_json(tmp_path / "official" / "vqav2.en.vqa.json")
    assert official[0] == {"question_id": 100, "answer": "red"}
    assert measured.cards["vqav2.en.vqa"][0]["files"]["annotations"]["path"].endswith(
        "v2_mscoco_val2014_annotations.json"
    )


def test_a_model_without_template_gets_the_prompt_published_for_such(data: Path, tmp_path: Path) -> None:
    _, model, _ = measure("paper-en", "vqav2", "vqa", data, tmp_path, ["x"] * 4, plain=True)
    assert model.asked[0] == "Question: what? Short answer:"


@pytest.mark.parametrize(
    ("name", "task", "said", "expected"),
    [
        ("gqa", "gqa", ["Red", "blue", "green."], {"accuracy": 100 / 3, "accuracy[llava]": 100.0}),
        ("textvqa", "vqa", ["red", "blue", "1", "2"], {"overall": 75.0, "overall[vqav2]": 50.0}),
        ("vizwiz", "vqa", ["red", "blue", "green", "unanswerable"], {"overall": 75.0}),
    ],
)
def test_questions_of_every_format(
    data: Path, tmp_path: Path, name: str, task: str, said: list[str], expected: dict[str, float]
) -> None:
    _, _, scores = measure("paper-en", name, task, data, tmp_path, said)
    for metric, value in expected.items():
        assert scores[metric] == pytest.approx(value, abs=0.01), metric


def test_secret_answers_become_the_servers_file(data: Path, tmp_path: Path) -> None:
    measured, _, _ = measure("paper-en", "vqav2-test-dev", "vqa", data, tmp_path, ["Two dogs."])
    assert measured.metrics == []
    upload = read_json(tmp_path / "official" / "vqav2-test-dev.en.vqa.vqav2-upload.json")
    assert upload == [{"question_id": 7, "answer": "2 dogs"}]
    measured, _, _ = measure("paper-en", "vizwiz-test", "vqa", data, tmp_path, ["a", "b", "c", ""])
    upload = read_json(tmp_path / "official" / "vizwiz-test.en.vqa.vizwiz-upload.json")
    assert [row["image"] for row in upload] == ["v0.jpg", "v1.jpg", "v2.jpg", "v3.jpg"]


@pytest.mark.parametrize(
    ("suite", "name", "texts", "cider"),
    [
        ("paper-en", "flickr30k", published.CAPTIONS, "CIDEr"),
        ("paper-en", "nocaps", published.CAPTIONS, "CIDEr"),
        ("paper-zh", "coco", published.CHINESE, "CIDEr[zh:char]"),
    ],
)
def test_captions_of_every_format(
    data: Path, tmp_path: Path, suite: str, name: str, texts: list[list[str]], cider: str
) -> None:
    said = [group[0] for group in texts]
    _, model, scores = measure(suite, name, "caption", data, tmp_path, said)
    _, _, worse = measure(suite, name, "caption", data, tmp_path / "worse", [*said[:3], said[0]])
    assert sum(map(len, model.seen)) == published.COUNT, "pictures of other splits are not asked about"
    assert scores[cider] > worse[cider] > 0
    bleu = f"Bleu_1{cider.removeprefix('CIDEr')}"
    assert scores[bleu] == pytest.approx(1.0, abs=1e-6)


def test_qa90_writes_what_judge_reads(data: Path, tmp_path: Path) -> None:
    for lang in ("en", "zh"):
        named = load_named("qa90")
        dataset = next(one for one in named.datasets if one.lang == lang)
        model = Knowing(["it", "is", "a", "ring"])
        EvalRun(EvalModel("stub", "stock", model), tmp_path, data).add_dataset(dataset, named.prompt(dataset))
        assert model.seen == [[f"{n:012d}.jpg" for n in range(4) for _ in (0, 1)]], (
            "a picture's stand together"
        )
        contender = read_model_answers(tmp_path / "official" / f"qa90_{lang}.jsonl")
        questions = read_questions(data / dataset.files["questions"])
        assert contender.name == "stub"
        assert set(contender.answers) == {question.id for question in questions}
        assert contender.answers["7"] == "ring"


def test_a_whole_run_in_two_languages(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    content = run_suite(checkpoint, "paper-en", "paper-zh", "qa90", out=tmp_path, data=data)
    rows = {(r["split"], r["lang"], r["task"], r["name"]): r for r in content["metrics"]}
    assert rows["flickr30k", "en", "rerank", "i2t_r1"]["n"] == 8
    assert rows["flickr30k", "zh", "retrieval", "i2t_r10"]["value"] == 100.0
    assert rows["muge", "zh", "retrieval", "t2i_mean_recall"]["value"] > 0
    # The files that were written give the numbers that were reported.
    folder = tmp_path / "retrieval"
    again = score.compute(
        "retrieval", embeddings=folder / "flickr30k.zh.retrieval.npz",
        rerank=folder / "flickr30k.zh.retrieval.itm.npz", top_k=128,
    )["scores"]  # fmt: skip
    for name, value in again.items():
        assert rows["flickr30k", "zh", "rerank", name]["value"] == pytest.approx(value, abs=1e-4)
    card = content["card"]
    assert [line.split(":")[0] for line in card["not_measured"]] == [
        "OK-VQA, val", "COCO captions, Karpathy's test", "COCO retrieval, 5K test",
    ]  # fmt: skip
    assert all("put " in line and "(from http" in line for line in card["not_measured"])
    assert card["prompts"]["vqav2.zh.vqa"]["text"] == "{question}请简短回答。"
    page = (tmp_path / "report.html").read_text("utf-8")
    for part in ("flickr30k: retrieval, contrastive + matching", "English minus Chinese", "BLIP-2 ViT-g",
                 "arXiv 2301.12597", "OK-VQA, val: not measured"):  # fmt: skip
        assert part in page, part
    before = (tmp_path / "answers.jsonl").read_bytes()
    assert (
        run_suite(checkpoint, "paper-en", "paper-zh", "qa90", out=tmp_path, data=data)["metrics"]
        == content["metrics"]
    )
    assert (tmp_path / "answers.jsonl").read_bytes() == before, "nothing is asked twice"


def test_absent_files_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["eval", str(checkpoint), "--suite", "paper-en", "--out", str(tmp_path), "--data", "nowhere"]
    )
    assert isinstance(done.exception, DataError)
    text = str(done.exception)
    assert "\n" not in text
    assert "none of its files are in --data nowhere; e.g. VQA v2, val: not measured; put vqav2/v2_" in text
    assert "https://visualqa.org" in text


def test_an_unknown_name_says_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no suite of that name; did you mean 'paper-en'\?"):
        run_suite(tmp_path, "paper-eng", out=tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\ndatasets: [{name: x, title: x, task: vqa, format: vqa, files: {}, get: x, typo: 1}]\n"
    )
    with pytest.raises(DataError, match=r"own\.yaml: datasets\.0\.typo"):
        run_suite(tmp_path, own, out=tmp_path)


def test_every_suite_of_the_package_is_valid() -> None:
    assert names() == ["paper-en", "paper-zh", "qa90", "scenes"]
    known = {"vqa": vqa.RULES, "gqa": choice.GQA_RULES}
    datasets = [dataset for path in FOLDER.glob("*.yaml") for dataset in load_named(path.stem).datasets]
    assert len(datasets) == 20
    for dataset in datasets:
        assert set(dataset.rules) <= set(known.get(dataset.task, ())), dataset.label
    for table in published_results(PUBLISHED):
        assert any((table["split"], table["lang"]) == (one.name, one.lang) for one in datasets), table
        assert all(len(values) == len(table["columns"]) for values in table["rows"].values())
        assert table["source"]


def test_which_folders_are_spoken_to_in_our_format(checkpoint: Path, tmp_path: Path) -> None:
    assert is_ours(checkpoint)
    folders.blip2(tmp_path / "blip2")
    assert not is_ours(tmp_path / "blip2"), "BLIP-2 has no chat template, and is not given Ziya's"
    folders.llava(tmp_path / "llava")
    assert not is_ours(tmp_path / "llava")


def test_a_broken_file_is_one_line(data: Path, tmp_path: Path) -> None:
    dataset: Any = next(one for one in load_named("paper-zh").datasets if one.name == "muge")
    published.chinese_clip(tmp_path, "MUGE", "valid")
    texts = tmp_path / "MUGE" / "valid_texts.jsonl"
    texts.write_text(
        json.dumps({"text_id": 1, "text": "红", "image_ids": [5]}) + "\n" + texts.read_text("utf-8"), "utf-8"
    )
    run = EvalRun(EvalModel("stub", "ours", Knowing([])), tmp_path, tmp_path)
    nameless = dataset.model_copy(update={"task": "caption", "files": {}})
    with pytest.raises(ConfigError, match=r"the format needs files\.images; the suite names none"):
        run.add_dataset(nameless, Prompt())
    with pytest.raises(ConfigError, match="format 'chinese-clip' serves no vqa; known: gqa, llava"):
        run.add_dataset(dataset.model_copy(update={"task": "vqa"}), Prompt())
    caption = dataset.model_copy(update={"task": "caption"})
    with pytest.raises(DataError, match=r"valid_texts\.jsonl: a text without an image"):
        run.add_dataset(caption, load_named("paper-zh").prompt(caption))


def test_scenes_by_name(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("QUESTIONS_PER_TYPE", 2), ("CAPTIONS", 3), ("POOLS", 1), ("POOL", 4)):
        monkeypatch.setattr(scenes, name, few)
    assert {lang for _, lang in build_scenes(0).sections} == {"en", "zh"}
    content = run_suite(checkpoint, "scenes:en,es", out=tmp_path)
    found = {(row["split"], row["lang"], row["task"]) for row in content["metrics"]}
    tasks = ("vqa", "caption", "retrieval", "rerank")
    assert found == {
        (split, lang, task) for split in ("new", "unseen") for lang in ("en", "es") for task in tasks
    }
    assert "with matching" in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(DataError, match="scenes speak en, es, zh, not 'fr'"):
        run_suite(checkpoint, "scenes:fr", out=tmp_path)
