"""The recipe: one YAML file that says what is trained, on what, and how. Strict: an unknown key is an error.

Configuration stops here and at the builders: modules take plain keyword arguments, never a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import read_text
from ziya_visual.core.stage import Stage, Strict


def _no_fp16(precision: Any) -> Any:
    if precision == "fp16":
        why = "the Q-Former's values overflow float16; use bf16, or fp32"
        raise PydanticCustomError("rule", "{why}", {"why": why})
    return precision


class Lora(Strict):
    """Low-rank adaptation of the language model's linear layers."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)


class Bridge(Strict):
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


class Model(Strict):
    """Where training starts: a checkpoint of ours, or parts to compose one of."""

    checkpoint: Path | None = None
    image_size: int | None = Field(
        None, ge=1, description="pixels a side; position embeddings are interpolated to it"
    )
    attention: Literal["plain", "flex_attention", "sdpa"] = Field(
        "plain",
        description="of the language model; sdpa fits every one, and costs the square of a step's tokens",
    )
    quantize: Literal["nf4"] | None = Field(
        None, description="the checkpoint's language model in 4 bits under its adapters (QLoRA)"
    )
    vision: Path | None = None
    language_model: Path | None = None
    bridge: Bridge = Bridge()
    lora: Lora = Lora()


class Data(Strict):
    """What is trained on: datasets of records, or folders of pictures with a ``captions.csv``."""

    path: tuple[Path, ...]
    shared: tuple[str, ...] = Field(
        (), description="paths of validation that may share pictures with these, and are meant to"
    )
    temperature: float | None = Field(
        None,
        ge=1,
        description="draw pictures of each source by its size ** (1 / temperature), languages alike; "
        "without, every picture once before any again",
    )
    phrasings: Literal["plain", "varied"] = Field(
        "plain", description="how tasks are put: as in the quickstart, or in twelve and more ways each"
    )


class Validation(Strict):
    """Records whose language-model loss is measured while training goes on."""

    path: tuple[Path, ...]
    every: int = Field(200, ge=1, description="steps; the last of a stage is one too")
    best: str | None = Field(
        None, description="the loss by which a stage ends with its best weights: loss, or loss/zh ..."
    )


class Cache(Strict):
    """Where a frozen encoder's results for the pictures are kept, and how much of the disk they may take."""

    path: Path | None = Field(None, description="a folder that runs may share; else features/ in out")
    gigabytes: float = Field(20.0, ge=0)


class Recipe(Strict):
    """A whole recipe file."""

    name: str
    seed: int = 0
    out: Path
    model: Model
    data: Data
    validation: Validation | None = None
    precision: Annotated[Literal["fp32", "bf16"], BeforeValidator(_no_fp16)] = "bf16"
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="of the matrices inside the networks; all else is AdamW's"
    )
    stages: tuple[Stage, ...] = Field(min_length=1)
    save_every: int = Field(200, ge=1, description="steps, after which a killed run goes on")
    sample_every: int | None = Field(
        None, ge=1, description="steps, after which it answers a question in each language"
    )
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        (), description="that get the curve too"
    )
    recompute: bool = Field(
        False, description="the language model's states in the backward pass: less memory, more time"
    )
    compile: bool = Field(False, description="the language model's blocks by torch.compile")
    shard: bool = Field(False, description="the language model's blocks over the processes, by FSDP2")
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
        if self.shard and self.save != "adapter":
            why = "shard needs save: adapter, for no process holds a whole checkpoint; `export` writes one"
            raise PydanticCustomError("rule", why)
        if self.model.quantize and self.save != "adapter":
            why = "model.quantize needs save: adapter, for the weights in 4 bits are not the checkpoint's"
            raise PydanticCustomError("rule", why)
        return self

    def until(self, stage: str) -> Recipe:
        """The recipe up to a stage.

        Raises:
            ConfigError: it has no stage of this name.
        """
        names = [one.name for one in self.stages]
        if stage not in names:
            raise ConfigError(f"there is no stage {stage!r}{nearest(stage, names)}")
        return self.model_copy(update={"stages": self.stages[: names.index(stage) + 1]})


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
    fields = (item for model in Strict.__subclasses__() for item in model.model_fields.items())
    return {name for name, field in fields if isinstance(field.default, Strict | dict) or _optional(field)}


def _optional(field: FieldInfo) -> bool:
    """Whether it is a section or nothing."""
    kinds = getattr(field.annotation, "__args__", ())
    return field.default is None and any(isinstance(k, type) and issubclass(k, Strict) for k in kinds)


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
