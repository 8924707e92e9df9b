"""The formats that evaluation data are published in, read as they are: questions, and galleries.

A question becomes a record and a row of the file that its official tool reads; a gallery is pictures with
their captions, which serves captioning and retrieval.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import read_json
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Example, Message
from ziya_visual.eval.retrieval import Ints
from ziya_visual.eval.rows import Row, need, read_object, read_rows, read_value
from ziya_visual.eval.suites import image_files
from ziya_visual.eval.suites.named import DataSet, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Questions:
    """What is asked of a data set.

    Attributes:
        examples: one a question, each with an ``image_id``.
        images: its pictures.
        rows: of the answers file, one an example, but for the answer.
        key: where the answer stands in a row.
        inputs: what ``score`` reads besides: files as they are, or rows to be written; empty where the
            answers are secret.
    """

    examples: list[Example]
    images: Mapping[str, Image]
    rows: list[dict[str, Any]]
    key: str
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Pictures and their captions.

    Attributes:
        image_ids: N pictures.
        images: by id.
        texts: M captions.
        text2image: int64[M], or [M, K] filled up with -1 where a text has several pictures.
        references: a file that ``score caption`` reads, or None to write one.
    """

    image_ids: list[Any]
    images: Mapping[str, Image]
    texts: list[str]
    text2image: Ints
    references: Path | None = None

    def groups(self) -> dict[Any, list[str]]:
        """Captions by picture."""
        found: dict[Any, list[str]] = {name: [] for name in self.image_ids}
        for text, owners in zip(self.texts, self.text2image.reshape(len(self.texts), -1), strict=True):
            for owner in owners[owners >= 0]:
                found[self.image_ids[owner]].append(text)
        return found


class _Paths(dict[str, Path]):
    """The files of a data set, by the names that its format has for them."""

    def __missing__(self, name: str) -> Path:
        raise ConfigError(f"the format needs files.{name}; the suite names {', '.join(self) or 'none'}")


def read_questions(dataset: DataSet, folder: Path, prompt: Prompt, *, plain: bool) -> Questions:
    """The questions of a data set.

    Raises:
        ConfigError: its format has none.
        DataError: a file of another form.
    """
    reader = _of(_QUESTIONS, dataset)
    files = _Paths({name: folder / path for name, path in dataset.files.items()})
    asked, key, inputs = reader(files)
    examples, rows, paths = [], [], {}
    for number, (source, row) in enumerate(asked):
        image_id = str(source["image_id"])
        paths[image_id] = folder / dataset.images / _file_name(dataset, source)
        text = prompt.ask(str(source["question"]), plain=plain)
        turns = (Message("user", text),)
        meta = {"question_id": str(source["question_id"])}
        name = f"{dataset.label}-{number}"
        examples.append(Example(name, dataset.lang, "vqa", turns, image_id=image_id, meta=meta))
        rows.append(row)
    return Questions(examples, image_files(paths), rows, key, inputs)


def read_gallery(dataset: DataSet, folder: Path) -> Gallery:
    """The pictures and captions of a data set; as :func:`read_questions`."""
    files = _Paths({name: folder / path for name, path in dataset.files.items()})
    gallery: Gallery = _of(_GALLERIES, dataset)(files, folder / dataset.images, dataset)
    if not gallery.texts:
        raise DataError(f"{next(iter(files.values()))}: holds no captions to test on")
    return gallery


def _of(readers: Mapping[str, Callable[..., Any]], dataset: DataSet) -> Callable[..., Any]:
    if dataset.format not in readers:
        raise ConfigError(
            f"{dataset.label}: format {dataset.format!r} serves no {dataset.task}"
            f"{nearest(dataset.format, readers)}"
        )
    return readers[dataset.format]


def _file_name(dataset: DataSet, fields: Row) -> str:
    try:
        return dataset.image_name.format_map(fields)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{dataset.label}: image_name {dataset.image_name!r} does not fit ({error})"
        ) from error


_Asked = tuple[list[tuple[Row, dict[str, Any]]], str, dict[str, Any]]


def _vqa(files: _Paths) -> _Asked:
    """VQA v2, OK-VQA: ``questions``, and ``annotations`` unless they are secret."""
    path = files["questions"]
    rows = read_object(path, "questions")
    for name in ("question_id", "image_id", "question"):
        need(rows[0], name, path)
    asked = [(row, {"question_id": row["question_id"]}) for row in rows]
    return asked, "answer", {name: files[name] for name in ("questions", "annotations") if name in files}


def _textvqa(files: _Paths) -> _Asked:
    """TextVQA: one file with ``data``."""
    return _in_vqa_form(read_object(files["questions"], "data"), files["questions"], "image_id")


def _vizwiz(files: _Paths) -> _Asked:
    """VizWiz: a list, one question a picture, which is its id."""
    rows = [{**row, "question_id": row.get("image")} for row in read_rows(files["questions"])]
    return _in_vqa_form(rows, files["questions"], "image")


def _in_vqa_form(rows: Sequence[Row], path: Path, image: str) -> _Asked:
    questions, annotations = [], []
    for row in rows:
        ids = {"question_id": need(row, "question_id", path), "image_id": need(row, image, path)}
        questions.append({**ids, "image": row.get("image"), "question": need(row, "question", path)})
        if "answers" in row:
            answers = [
                answer if isinstance(answer, Mapping) else {"answer": answer} for answer in row["answers"]
            ]
            numbered = [{**answer, "answer_id": number} for number, answer in enumerate(answers, start=1)]
            kind = {"answer_type": row["answer_type"]} if "answer_type" in row else {}
            annotations.append({**ids, **kind, "answers": numbered})
    inputs: dict[str, Any] = {"questions": {"questions": questions}}
    if annotations:
        inputs["annotations"] = {"annotations": annotations}
    return [(row, {"question_id": row["question_id"]}) for row in questions], "answer", inputs


def _gqa(files: _Paths) -> _Asked:
    """GQA: an object by question id; the balanced questions are asked, as they are scored."""
    path = files["annotations"]
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(row, dict) for row in value.values()):
        raise DataError(f"{path}: expected a JSON object of questions by their id")
    asked: list[tuple[Row, dict[str, Any]]] = []
    for item, row in value.items():
        if row.get("isBalanced", True):
            ids = {"question_id": item, "image_id": need(row, "imageId", path)}
            asked.append(({**ids, "question": need(row, "question", path)}, {"questionId": item}))
    return asked, "prediction", {"annotations": path}


def _llava(files: _Paths) -> _Asked:
    """LLaVA's and qa90's questions: JSONL of ``question_id``, ``image``, ``text``, ``category``."""
    path = files["questions"]
    asked: list[tuple[Row, dict[str, Any]]] = []
    for row in read_rows(path):
        question = need(row, "text", path)
        kept = {"question_id": need(row, "question_id", path), "prompt": question}
        kept |= {"category": row["category"]} if "category" in row else {}
        stem = Path(str(need(row, "image", path))).stem
        asked.append(({**row, "image_id": row["image"], "image_stem": stem, "question": question}, kept))
    return asked, "text", {}


def _coco(files: _Paths, images: Path, dataset: DataSet) -> Gallery:
    """COCO's caption annotations, as NoCaps has them too; captioning reads the file itself."""
    path = files["annotations"]
    listed = read_object(path, "images")
    place = {need(row, "id", path): number for number, row in enumerate(listed)}
    paths = {str(row["id"]): images / _file_name(dataset, {**row, "image_id": row["id"]}) for row in listed}
    captions = [row for row in read_object(path, "annotations") if row.get("image_id") in place]
    owner = np.array([place[row["image_id"]] for row in captions], np.int64)
    texts = [str(need(row, "caption", path)) for row in captions]
    return Gallery(list(place), image_files(paths), texts, owner, references=path)


def _karpathy(files: _Paths, images: Path, dataset: DataSet) -> Gallery:
    """Karpathy's splits of COCO and Flickr30k: the pictures of ``test``, their first five sentences."""
    path = files["dataset"]
    rows = [row for row in read_object(path, "images") if need(row, "split", path) == "test"]
    sentences = [[need(one, "raw", path) for one in need(row, "sentences", path)[:5]] for row in rows]
    ids = [row.get("cocoid", row.get("imgid")) for row in rows]
    paths = {str(name): images / _file_name(dataset, row) for name, row in zip(ids, rows, strict=True)}
    owner = np.repeat(np.arange(len(rows)), [len(some) for some in sentences])
    return Gallery(ids, image_files(paths), [text for some in sentences for text in some], owner)


def _chinese_clip(files: _Paths, images: Path, dataset: DataSet) -> Gallery:
    """Chinese-CLIP's form of MUGE, Flickr30k-CN and COCO-CN: a TSV of pictures and a JSONL of texts."""
    pictures = TablePictures(files["images"])
    place = {name: number for number, name in enumerate(pictures)}
    path = files["texts"]
    rows = read_value(path)
    owners = [[place.get(str(one), -1) for one in need(row, "image_ids", path)] for row in rows]
    if any(not own or min(own) < 0 for own in owners):
        raise DataError(f"{path}: a text without a picture, or of one that {files['images']} lacks")
    owner = np.full((len(rows), max(map(len, owners))), -1, np.int64)
    for number, own in enumerate(owners):
        owner[number, : len(own)] = own
    texts = [str(need(row, "text", path)) for row in rows]
    return Gallery(list(place), pictures, texts, owner if owner.shape[1] > 1 else owner[:, 0])


class TablePictures(Mapping[str, "Image"]):
    """Pictures in lines of id, tab, base64; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        offset = 0
        with path.open("rb") as file:
            for line in file:
                name, tab, _ = line.partition(b"\t")
                if not tab:
                    raise DataError(f"{path}: line {len(self._offsets) + 1} is no id, tab and base64 picture")
                self._offsets[name.decode()] = offset
                offset += len(line)

    def __getitem__(self, key: str) -> Image:
        with self._path.open("rb") as file:
            file.seek(self._offsets[key])
            encoded = file.readline().partition(b"\t")[2].strip()
        try:
            return load_image(base64.urlsafe_b64decode(encoded))  # which reads the usual alphabet too
        except (DataError, binascii.Error) as error:
            raise DataError(f"{self._path}: picture {key}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


_QUESTIONS: dict[str, Callable[[_Paths], _Asked]] = {
    "vqa": _vqa,
    "textvqa": _textvqa,
    "vizwiz": _vizwiz,
    "gqa": _gqa,
    "llava": _llava,
}
_GALLERIES: dict[str, Callable[[_Paths, Path, DataSet], Gallery]] = {
    "coco": _coco,
    "karpathy": _karpathy,
    "chinese-clip": _chinese_clip,
}
