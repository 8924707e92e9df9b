"""The recipe: one YAML file that says what is trained, on what, and how. Strict: an unknown key is an error.

Configuration stops here and at the builders: modules take plain keyword arguments, never a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.io import read_text

Part = Literal["qformer", "query_tokens", "projection", "alignment", "lora", "vision"]
PARTS: tuple[Part, ...] = ("qformer", "query_tokens", "projection", "alignment", "lora", "vision")
BLOCKS: tuple[Part, ...] = ("qformer", "alignment", "lora", "vision")  # the parts made of numbered blocks


def split_rule(rule: str) -> tuple[str, slice | None]:
    """What a stage trains: a part, or some of its blocks as Python slices them.

    >>> split_rule("qformer")
    ('qformer', None)
    >>> split_rule("vision[-2:]")  # the last two; [36:39] are three, [:4] the first four
    ('vision', slice(-2, None, None))

    Raises:
        ValueError: it is of another form, names no part, or slices one that has no blocks.
    """
    form = re.fullmatch(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?", rule)
    if form is None:
        raise ValueError(
            f"expected a part, or some blocks of one such as vision[-2:] or vision[36:39], found {rule!r}"
        )
    part, first, end = form.groups()
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}{nearest(part, PARTS)}")
    if rule == part:
        return part, None
    if part not in BLOCKS:
        raise ValueError(f"{part} has no blocks to choose from; write {part!r}")
    return part, slice(first and int(first), end and int(end))


def _checked(rule: str) -> str:
    try:
        split_rule(rule)
    except ValueError as error:
        raise PydanticCustomError("rule", "{why}", {"why": str(error)}) from error
    return rule


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Strict):
    """Low-rank adaptation of the language model's linear layers."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)


class Objectives(_Strict):
    """The weight of each loss; 0 leaves it out."""

    language_model: float = Field(1.0, ge=0)
    contrastive: float = Field(0.0, ge=0)
    matching: float = Field(0.0, ge=0)
    grounded: float = Field(0.0, ge=0)

    @property
    def align(self) -> bool:
        """Whether any compares pictures with captions in the Q-Former."""
        return bool(self.contrastive or self.matching or self.grounded)


class Stage(_Strict):
    """One stage of training (DESIGN, "Stages")."""

    name: str
    steps: int = Field(ge=1)
    images_per_step: int = Field(ge=1)
    texts_per_image: int = Field(
        ge=1, description="texts drawn of those that an image has, all languages together"
    )
    images_at_once: int | None = Field(
        None, ge=1, description="images whose texts are in memory together; all of a step's, if not given"
    )
    tasks: dict[str, float] = Field(description="weight of each task in the draw")
    trains: tuple[Annotated[str, AfterValidator(_checked)], ...] = Field(
        description="parts, or blocks of a part: see split_rule"
    )
    objectives: Objectives = Objectives()
    learning_rate: float = Field(
        gt=0, description="at its highest, of all parts that learning_rates leaves out"
    )
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="of single parts, such as {lora: 0.0001, vision: 0.00001}"
    )
    warmup_steps: int = Field(0, ge=0)
    final_fraction: float = Field(0.05, ge=0, le=1, description="of the learning rate, at the last step")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of which anything is trained."""
        return tuple(split_rule(rule)[0] for rule in self.trains)

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        twice = sorted({part for part in self.parts if self.parts.count(part) > 1})
        idle = sorted(set(self.learning_rates) - set(self.parts))
        if twice:
            raise PydanticCustomError(
                "rule", "trains names {part} twice; write one range", {"part": twice[0]}
            )
        if self.images_at_once and not self.objectives.language_model:
            why = "images_at_once is of the language model's loss, which this stage does not have"
            raise PydanticCustomError("rule", why)
        if idle:
            why = "learning_rates has {part}, which this stage does not train"
            raise PydanticCustomError("rule", why, {"part": idle[0]})
        return self


class Bridge(_Strict):
    """The Q-Former of a new checkpoint."""

    num_query_tokens: int = Field(32, ge=1)
    hidden_size: int = Field(768, ge=8)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    intermediate_size: int = Field(3072, ge=8)
    cross_attention_frequency: int = Field(2, ge=1)
    max_position_embeddings: int = Field(512, ge=8)
    initializer_range: float = Field(0.02, gt=0, description="standard deviation of new weights")
    projection_size: int = Field(256, ge=1, description="width of the contrastive space")


class Model(_Strict):
    """Where training starts: a checkpoint of ours, or parts to compose one of."""

    checkpoint: Path | None = None
    vision: Path | None = None
    language_model: Path | None = None
    bridge: Bridge = Bridge()
    lora: Lora = Lora()


class Data(_Strict):
    """What is trained on: files of records (JSONL), or a folder of pictures with a ``captions.csv``."""

    path: tuple[Path, ...]


class Cache(_Strict):
    """Where the frozen ViT's states of the pictures are kept, and how much of the disk they may take."""

    path: Path | None = Field(None, description="a folder that runs may share; else features/ in out")
    gigabytes: float = Field(20.0, ge=0)


class Recipe(_Strict):
    """A whole recipe file."""

    name: str
    seed: int = 0
    out: Path
    model: Model
    data: Data
    precision: Literal["fp32", "bf16"] = "bf16"
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="of the matrices inside the networks; all else is AdamW's"
    )
    stages: tuple[Stage, ...] = Field(min_length=1)
    save_every: int = Field(200, ge=1, description="steps, after which a killed run goes on")
    cache: Cache = Cache()
    save: Literal["checkpoint", "adapter"] = Field(
        "checkpoint",
        description="of each stage: a whole checkpoint, or what was trained since model.checkpoint",
    )

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.save == "adapter" and self.model.checkpoint is None:
            why = "save: adapter needs a model.checkpoint that it belongs to"
            raise PydanticCustomError("rule", why)
        return self


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` changes, where the key is a dotted path (``stages.0.steps=10``).

    Raises:
        ConfigError: the file is no YAML mapping, a key is unknown or missing, or a value does not fit.
    """
    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a YAML mapping, found {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from error


def _override(data: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no key=value")
    *parents, last = key.split(".")
    place = data
    for name in [*parents, last]:
        inside = place
        if isinstance(place, list) and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, dict) and name is last:
            place = place.get(name)
        elif isinstance(place, dict) and (name in place or name in _optional_sections()):
            place = place.setdefault(name, {})
        else:
            known = list(place) if isinstance(place, dict) else map(str, range(len(place or ())))
            raise ConfigError(f"{override!r}: there is no {name!r} in the recipe{nearest(name, known)}")
    inside[int(last) if isinstance(inside, list) else last] = yaml.safe_load(text)


def _optional_sections() -> set[str]:
    """The keys that hold keys of their own and that a file may leave out."""
    fields = (item for model in _Strict.__subclasses__() for item in model.model_fields.items())
    return {name for name, field in fields if isinstance(field.default, _Strict | dict)}


def _first_problem(error: ValidationError) -> str:
    # A misspelt key is also a missing one; what was typed is what the user should hear about.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}, found {problem['input']!r:.60}"
    model: Any = Recipe
    for step in problem["loc"][:-1]:
        if isinstance(step, str):
            model = _model_of(model.model_fields[step].annotation)
    return f"unknown key {where!r}{nearest(str(problem['loc'][-1]), model.model_fields)}"


def _model_of(annotation: Any) -> Any:
    """The recipe class inside an annotation such as ``tuple[Stage, ...]``."""
    inner = getattr(annotation, "__args__", ())
    return inner[0] if inner else annotation
