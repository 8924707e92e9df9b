"""Suites by name: YAML files that list published data sets, their prompts and the rules that score them.

The data are the user's own copies, as they were published, under one folder.
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
    """A prompt, in which ``{question}`` stands for the question, and who published it.

    A model without a chat template gets ``plain``, by default the same as ``chat``.
    """

    chat: str = "{question}"
    plain: str | None = None
    source: str = ""

    def ask(self, question: str, *, plain: bool) -> str:
        """Return the text of the user's turn."""
        template = self.plain if plain and self.plain is not None else self.chat
        return template.replace("{question}", question)


class DataSet(_Strict):
    """One published data set and how it is measured.

    Attributes:
        name: the ``split`` of its rows in ``results.json``, the same in every language.
        files: the format's name of a file -> its path under the suite's folder.
        images: folder of the images, under the suite's folder; empty if ``files`` hold them.
        image_name: file name of an image, with fields of the format in braces.
        rules: rules of ``score``; the names of scores by any but the first carry the rule in brackets.
        top_k: number of candidates per row and column that the matching head ranks again.
        submission: the evaluation server that takes the answers.
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
        """Return the name for files and messages."""
        return f"{self.name}.{self.lang}.{self.task}"

    def missing(self, folder: Path) -> str:
        """Return one line that says what to put where; empty if nothing is missing."""
        names = [*self.files.values(), *([self.images] if self.images else [])]
        absent = [name for name in names if not (folder / name).exists()]
        if not absent:
            return ""
        return f"{self.title}: not measured; put {', '.join(absent)} into {folder} (from {self.get})"


class NamedSuite(_Strict):
    """Data sets, and the prompts of their tasks."""

    name: str
    prompts: dict[Task, Prompt] = Field(default_factory=dict)
    datasets: tuple[DataSet, ...]

    def prompt(self, dataset: DataSet) -> Prompt:
        """Return the prompt of a data set."""
        return dataset.prompt or self.prompts.get(dataset.task, Prompt())


def names() -> list[str]:
    """Return the suites that come with the package."""
    return sorted([SCENES, *(path.stem for path in FOLDER.glob("*.yaml"))])


def load_named(suite: str) -> NamedSuite:
    """Load a suite of the package by name, or a YAML file of the same form."""
    path = Path(suite) if suite.endswith((".yaml", ".yml")) else FOLDER / f"{suite}.yaml"
    if not path.is_file():
        raise ConfigError(f"--suite {suite}: no such file and no suite of that name{nearest(suite, names())}")
    try:
        return NamedSuite.model_validate(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is no YAML ({' '.join(str(error).split())[:160]})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
