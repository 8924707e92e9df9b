"""The recipe: one YAML file that says what is trained, on which data, and how.

It is strict: an unknown key is an error. Recipes stop at the builders; every other module takes plain keyword
arguments. A recipe has one or more stages, each with its own data mix, objectives and trainable parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ziya_visual.core.errors import ConfigError, nearest, one_line
from ziya_visual.core.files import read_text
from ziya_visual.core.trainable import Part, parse_rule


def _invalid(reason: str) -> PydanticCustomError:
    """Return an error that pydantic reports in our own words."""
    return PydanticCustomError("rule", "{reason}", {"reason": reason})


def _refuse_fp16(precision: Any) -> Any:
    if precision == "fp16":
        raise _invalid("the Q-Former's activations overflow float16; use bf16 or fp32")
    return precision


def _check_rule(rule: str) -> str:
    try:
        parse_rule(rule)
    except ValueError as error:
        raise _invalid(str(error)) from error
    return rule


class Strict(BaseModel):
    """A section of a recipe, in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Objectives(Strict):
    """The weight of each loss; a loss with weight 0 is not computed."""

    language_model: float = Field(1.0, ge=0)
    contrastive: float = Field(0.0, ge=0)
    matching: float = Field(0.0, ge=0)
    grounded: float = Field(0.0, ge=0)
    languages: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="factor on all losses of a language, such as {zh: 2}; 1 by default"
    )


class Stage(Strict):
    """One stage of training."""

    name: str
    steps: int = Field(ge=1)
    images_per_step: int = Field(ge=1)
    texts_per_image: int = Field(ge=1, description="texts drawn for each image, all languages together")
    texts_per_step: int = Field(0, ge=0, description="texts without an image, in addition")
    images_at_once: int | None = Field(
        None, ge=1, description="images whose texts are in memory at once; all of a step's by default"
    )
    tasks: dict[str, float] = Field(description="sampling weight of each task")
    trains: tuple[Annotated[str, AfterValidator(_check_rule)], ...] = Field(
        description="trainable parts, or slices of their blocks such as vision[-2:]"
    )
    objectives: Objectives = Objectives()
    learning_rate: float = Field(gt=0, description="peak, for every part that learning_rates leaves out")
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="peak for single parts, such as {lora: 0.0001, vision: 0.00001}"
    )
    warmup_steps: int = Field(0, ge=0)
    final_fraction: float = Field(0.05, ge=0, le=1, description="of the peak, reached at the last step")

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of the parts that are trained, wholly or in some of their blocks."""
        return tuple(parse_rule(rule)[0] for rule in self.trains)

    @model_validator(mode="after")
    def _check(self) -> Stage:
        repeated = sorted({part for part in self.parts if self.parts.count(part) > 1})
        frozen = sorted(set(self.learning_rates) - set(self.parts))
        if repeated:
            raise _invalid(f"trains names {repeated[0]} twice; write one slice")
        if self.images_at_once and not self.objectives.language_model:
            raise _invalid("images_at_once splits the language-model loss, which this stage does not have")
        if self.texts_per_step and "lora" not in self.parts:
            raise _invalid("texts_per_step needs lora in trains: nothing else learns from a text alone")
        if frozen:
            raise _invalid(f"learning_rates has {frozen[0]}, which this stage does not train")
        return self


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
    """Where training starts: from one of our checkpoints, or from parts that are composed into one."""

    checkpoint: Path | None = None
    image_size: int | None = Field(
        None, ge=1, description="pixels per side; position embeddings are interpolated"
    )
    attention: Literal["plain", "flex_attention", "sdpa"] = Field(
        "plain",
        description="attention of the language model; sdpa works with every model but grows with the "
        "square of a step's tokens",
    )
    quantize: Literal["nf4"] | None = Field(
        None, description="keep the language model in 4 bits under its adapters (QLoRA)"
    )
    vision: Path | None = None
    language_model: Path | None = None
    bridge: Bridge = Bridge()
    lora: Lora = Lora()


class Data(Strict):
    """The training data: datasets of records, or folders of images with a ``captions.csv``."""

    path: tuple[Path, ...]
    shared: tuple[str, ...] = Field(
        (), description="validation paths that share images with the training data on purpose"
    )
    temperature: float | None = Field(
        None,
        ge=1,
        description="sample sources by size ** (1 / temperature), languages balanced; "
        "by default every image is seen once before any is repeated",
    )
    phrasings: Literal["plain", "varied"] = Field(
        "plain", description="prompt templates: those of the quickstart, or at least twelve per task"
    )


class Validation(Strict):
    """Records whose language-model loss is measured during training."""

    path: tuple[Path, ...]
    every: int = Field(200, ge=1, description="steps between measurements; the last step is measured too")
    best: str | None = Field(
        None, description="the loss whose minimum selects the weights a stage ends with: loss, loss/zh ..."
    )


class Cache(Strict):
    """The disk cache for the features of a frozen image encoder."""

    path: Path | None = Field(None, description="a folder that runs may share; features/ in out by default")
    gigabytes: float = Field(20.0, ge=0)


class Recipe(Strict):
    """A whole recipe file."""

    name: str
    seed: int = 0
    out: Path
    model: Model
    data: Data
    validation: Validation | None = None
    precision: Annotated[Literal["fp32", "bf16"], BeforeValidator(_refuse_fp16)] = "bf16"
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="for hidden weight matrices; everything else uses AdamW"
    )
    stages: tuple[Stage, ...] = Field(min_length=1)
    save_every: int = Field(200, ge=1, description="steps between the states from which a killed run resumes")
    sample_every: int | None = Field(
        None, ge=1, description="steps between sample answers, one in each language"
    )
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        (), description="experiment trackers that receive the curves as well"
    )
    recompute: bool = Field(
        False, description="recompute the language model's activations in the backward pass to save memory"
    )
    compile: bool = Field(False, description="compile the language model's blocks with torch.compile")
    shard: bool = Field(False, description="shard the language model's blocks over the processes with FSDP2")
    cache: Cache = Cache()
    save: Literal["checkpoint", "adapter"] = Field(
        "checkpoint",
        description="what a stage saves: a whole checkpoint, or the weights changed since model.checkpoint",
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.save == "adapter" and self.model.checkpoint is None:
            raise _invalid("save: adapter needs a model.checkpoint for the adapter to extend")
        if self.shard and self.save != "adapter":
            raise _invalid(
                "shard needs save: adapter, because no process holds a whole checkpoint; `export` writes one"
            )
        if self.model.quantize and self.save != "adapter":
            raise _invalid(
                "model.quantize needs save: adapter, because 4-bit weights are not the checkpoint's weights"
            )
        return self

    def until(self, stage: str) -> Recipe:
        """Return a copy of the recipe that ends with the named stage.

        Raises:
            ConfigError: No stage has this name.
        """
        names = [entry.name for entry in self.stages]
        if stage not in names:
            raise ConfigError(f"there is no stage {stage!r}{nearest(stage, names)}")
        return self.model_copy(update={"stages": self.stages[: names.index(stage) + 1]})


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and apply ``key=value`` changes, where a key is a dotted path (``stages.0.steps=10``).

    Raises:
        ConfigError: The file is not a YAML mapping, a key is unknown or missing, or a value is invalid.
    """
    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({one_line(error, 120)})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a YAML mapping, found {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from error


def _apply_override(data: Any, override: str) -> None:
    """Change the value at a dotted path in place, creating the optional sections on the way."""
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"expected key=value, found {override!r}")
    *parents, last = path.split(".")
    section = data
    for key in parents:
        if isinstance(section, dict) and key in _optional_sections():
            section = section.setdefault(key, {})
        else:
            section = section[_existing_key(section, key, override)]
    index = last if isinstance(section, dict) else _existing_key(section, last, override)
    section[index] = yaml.safe_load(text)


def _existing_key(section: Any, key: str, override: str) -> str | int:
    """Return the key as it indexes a mapping or list, or raise if there is no such entry."""
    if isinstance(section, list) and key.isdigit() and int(key) < len(section):
        return int(key)
    if isinstance(section, dict) and key in section:
        return key
    known = section if isinstance(section, dict) else map(str, range(len(section or ())))
    raise ConfigError(f"{override!r}: there is no {key!r} in the recipe{nearest(key, known)}")


def _optional_sections() -> set[str]:
    """Return the keys whose values are mappings that a recipe file may leave out."""
    sections = Strict.__subclasses__()
    return {
        name
        for section in sections
        for name, field in section.model_fields.items()
        if isinstance(field.default, Strict | dict)
        or (field.default is None and any(kind in sections for kind in get_args(field.annotation)))
    }


def _first_problem(error: ValidationError) -> str:
    # A misspelt key is usually a missing one as well: report what the user typed.
    problem = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}, found {problem['input']!r:.60}"
    section: Any = Recipe
    for key in problem["loc"][:-1]:
        if isinstance(key, str):
            annotation = section.model_fields[key].annotation
            section = (get_args(annotation) or (annotation,))[0]  # tuple[Stage, ...] -> Stage
    return f"unknown key {where!r}{nearest(str(problem['loc'][-1]), section.model_fields)}"
