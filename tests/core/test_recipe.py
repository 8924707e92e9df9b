"""Recipes: unknown keys and unfit values end in one line that names the nearest known key."""

from pathlib import Path

import pytest

from ziya_visual.core.errors import ConfigError
from ziya_visual.core.recipe import load_recipe
from ziya_visual.core.trainable import parse_rule

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = """
name: r
out: runs/r
model: {checkpoint: base}
data: {path: [a.jsonl]}
stages:
  - {name: chat, steps: 10, images_per_step: 4, texts_per_image: 2, tasks: {vqa: 1.0},
     trains: [qformer, lora], learning_rate: 0.001}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_read_and_changed(path: Path) -> None:
    recipe = load_recipe(path, ["stages.0.steps=3", "seed=7", "data.path=[b, c]"])
    assert recipe.stages[0].steps == 3
    assert recipe.seed == 7
    assert recipe.data.path == (Path("b"), Path("c"))
    assert recipe.stages[0].trains == ("qformer", "lora")
    left_out = ["cache.gigabytes=2", "model.lora.rank=3", "stages.0.objectives.contrastive=0.5"]
    held = ["validation.path=[c]", "validation.best=loss/zh"]
    changed = load_recipe(path, [*left_out, *held, "stages.0.learning_rates.lora=0.1"])
    assert changed.validation is not None
    assert (changed.validation.path, changed.validation.best) == ((Path("c"),), "loss/zh")
    assert (changed.cache.gigabytes, changed.model.lora.rank) == (2, 3)
    assert changed.stages[0].objectives.contrastive == 0.5
    assert changed.stages[0].learning_rates == {"lora": 0.1}


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("stages.0.step=1", "unknown key 'stages.0.step'; did you mean 'steps'?"),
        ("stages.0.steps=0", "stages.0.steps: Input should be greater than or equal to 1, found 0"),
        ("cahce.gigabytes=1", "there is no 'cahce' in the recipe"),
        ("stages.0.images_at_once=0", "stages.0.images_at_once: Input should be greater"),
        ("stages.4.steps=1", "there is no '4' in the recipe"),
        ("modle.checkpoint=x", "there is no 'modle' in the recipe; did you mean 'model'?"),
        ("seed", "expected key=value, found 'seed'"),
        ("stages.0.trains=[qfromer]", "trains.0: unknown part 'qfromer'; did you mean 'qformer'?"),
        (
            "stages.0.trains=['vision[-2]']",
            "trains.0: expected a part, or a slice of its blocks such as vision[-2:]",
        ),
        ("stages.0.trains=['projection[1:]']", "trains.0: projection has no blocks to choose from"),
        ("stages.0.trains=['vision[:1]', 'vision[2:]']", "trains names vision twice"),
        (
            "stages.0.learning_rates={vision: 0.1}",
            "learning_rates has vision, which this stage does not train",
        ),
        ("stages.0.learning_rates={lora: 0}", "stages.0.learning_rates.lora: Input should be greater than 0"),
        ("model.bridge={num_query=3}", "model.bridge"),
        ("precision=fp16", "precision: the Q-Former's activations overflow float16; use bf16 or fp32"),
        (
            "stages.0={name: a, steps: 1, images_per_step: 1, texts_per_image: 1, texts_per_step: 1, "
            "tasks: {}, trains: [qformer], learning_rate: 1}",
            "texts_per_step needs lora in trains",
        ),
        ("shard=true", "shard needs save: adapter"),
        ("model.quantize=nf4", "model.quantize needs save: adapter"),
        ("trackers=[tensorbord]", "trackers.0: Input should be 'tensorboard'"),
        ("validation.evry=1", "unknown key 'validation.evry'; did you mean 'every'?"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [override])
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_are_shipped_can_be_read(path: Path) -> None:
    assert load_recipe(path, ["out=elsewhere"]).name == path.stem


def test_a_recipe_ends_with_the_stage_that_is_asked_for() -> None:
    recipe = load_recipe(RECIPES / "quickstart.yaml")
    assert [stage.name for stage in recipe.until("base").stages] == ["align", "base"]
    with pytest.raises(ConfigError, match="there is no stage 'bas'; did you mean 'base'"):
        recipe.until("bas")


def test_blocks_are_sliced_as_python_does() -> None:
    assert parse_rule("vision[-2:]") == ("vision", slice(-2, None))
    assert parse_rule("lora[36:39]") == ("lora", slice(36, 39))
    assert parse_rule("projection") == ("projection", None)


def test_an_adapter_needs_a_base(path: Path) -> None:
    assert load_recipe(path, ["save=adapter"]).save == "adapter"
    with pytest.raises(ConfigError, match=r"save: adapter needs a model\.checkpoint"):
        load_recipe(path, ["save=adapter", "model.checkpoint=null"])


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_what_is_no_recipe_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_recipe(path)
