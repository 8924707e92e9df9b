"""One stage of a recipe: what trains, from which data, by which losses (DESIGN, "Stages")."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ziya_visual.core.parts import Part, checked_rule, split_rule


class Strict(BaseModel):
    """A section of a recipe: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Objectives(Strict):
    """The weight of each loss; 0 leaves it out."""

    language_model: float = Field(1.0, ge=0)
    contrastive: float = Field(0.0, ge=0)
    matching: float = Field(0.0, ge=0)
    grounded: float = Field(0.0, ge=0)
    languages: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="factors on all losses of a language, such as {zh: 2}; 1 if not given"
    )

    def of(self, lang: str) -> float:
        """The factor on the losses of a language."""
        return self.languages.get(lang, 1.0)

    @property
    def align(self) -> bool:
        """Whether any compares pictures with captions in the Q-Former."""
        return bool(self.contrastive or self.matching or self.grounded)


class Stage(Strict):
    """One stage of training (DESIGN, "Stages")."""

    name: str
    steps: int = Field(ge=1)
    images_per_step: int = Field(ge=1)
    texts_per_image: int = Field(
        ge=1, description="texts drawn of those that an image has, all languages together"
    )
    texts_per_step: int = Field(0, ge=0, description="texts without a picture that a step has besides")
    images_at_once: int | None = Field(
        None, ge=1, description="images whose texts are in memory together; all of a step's, if not given"
    )
    tasks: dict[str, float] = Field(description="weight of each task in the draw")
    trains: tuple[Annotated[str, AfterValidator(checked_rule)], ...] = Field(
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
        if self.texts_per_step and "lora" not in self.parts:
            why = "texts_per_step: without lora in trains nothing learns from a text without a picture"
            raise PydanticCustomError("rule", why)
        if idle:
            why = "learning_rates has {part}, which this stage does not train"
            raise PydanticCustomError("rule", why, {"part": idle[0]})
        return self
