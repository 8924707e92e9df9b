"""Suites by name: YAML that says which published data sets are asked, how, and by which rule they are scored.

The data are the user's own copies, in the formats that their publishers give them out in, under one folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import read_text

FOLDER = Path(__file__).parent
SCENES = "scenes"  # drawn, not read: see build_scenes

Task = Literal["vqa", "gqa", "caption", "retrieval", "dialogue"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Strict):
    """How something is asked: ``{question}`` stands for the question.

    Attributes:
        chat: of a model with a chat template.
        plain: of one without; by default the same.
        source: who published it so.
    """

    chat: str = "{question}"
    plain: str | None = None
    source: str = ""

    def ask(self, question: str, *, plain: bool) -> str:
        """The text of the user's turn."""
        wanted = self.plain if plain and self.plain is not None else self.chat
        return wanted.replace("{question}", question)


class DataSet(_Strict):
    """One published data set and what is done with it.

    Attributes:
        name: the ``split`` of its rows in ``results.json``; the same set in another language has the same.
        title: for people.
        format: of :data:`~.formats.FORMATS`.
        files: what the format calls a file -> its path under the suite's folder.
        images: folder of the pictures, under the suite's folder; "" where they are in ``files``.
        image_name: file of a picture, with fields of the format in braces.
        prompt: by default the suite's for the task.
        rules: of ``score``; the first is the one of plain names, others stand in brackets.
        top_k: how many of each row and column the matching head ranks again.
        submission: the server that takes the answers, where it has a format.
        get: where the files come from.
    """

    name: str
    title: str
    lang: str = "en"
    task: Task
    format: str
    files: dict[str, str]
    images: str = ""
    image_name: str = "{image_id}.jpg"
    prompt: Prompt | None = None
    max_new_tokens: int = Field(16, ge=1)
    rules: tuple[str, ...] = ()
    top_k: int = Field(128, ge=1)
    submission: Literal["vqav2", "vizwiz"] | None = None
    get: str

    @property
    def label(self) -> str:
        """For files and messages."""
        return f"{self.name}.{self.lang}.{self.task}"

    def missing(self, folder: Path) -> str:
        """One line that says what to put where; empty where all is there."""
        wanted = [*self.files.values(), *([self.images] if self.images else [])]
        absent = [name for name in wanted if not (folder / name).exists()]
        if not absent:
            return ""
        return f"{self.title}: not measured; put {', '.join(absent)} into {folder} (from {self.get})"


class NamedSuite(_Strict):
    """Data sets, and the prompts of their tasks."""

    name: str
    prompts: dict[Task, Prompt] = Field(default_factory=dict)
    datasets: tuple[DataSet, ...]

    def prompt(self, dataset: DataSet) -> Prompt:
        """How a data set is asked."""
        return dataset.prompt or self.prompts.get(dataset.task, Prompt())


def names() -> list[str]:
    """The suites that come with the package."""
    return sorted([SCENES, *(path.stem for path in FOLDER.glob("*.yaml"))])


def load_named(suite: str) -> NamedSuite:
    """A suite of the package by name, or one's own YAML file of the same form.

    Raises:
        ConfigError: an unknown name.
        DataError: the file is of another form; the message names the first wrong entry.
    """
    path = Path(suite) if suite.endswith((".yaml", ".yml")) else FOLDER / f"{suite}.yaml"
    if not path.is_file():
        raise ConfigError(f"--suite {suite}: no such file and no suite of that name{nearest(suite, names())}")
    try:
        return NamedSuite.model_validate(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is no YAML ({' '.join(str(error).split())[:160]})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}") from error
