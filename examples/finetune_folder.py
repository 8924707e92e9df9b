"""Fine-tune a checkpoint on a folder of pictures with a captions.csv (image, lang, text).

python examples/finetune_folder.py runs/quickstart/checkpoint my-pictures runs/mine 200
"""

import sys
from pathlib import Path

from ziya_visual.core.recipe import load_recipe
from ziya_visual.train.run import run_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "finetune-folder.yaml"


def main(checkpoint: str, pictures: str, out: str, steps: str) -> None:
    changes = [f"model.checkpoint={checkpoint}", f"data.path=[{pictures}]", f"out={out}"]
    changes.append(f"stages.0.steps={steps}")
    print(f"try it: ziya-visual chat {run_recipe(load_recipe(RECIPE, changes))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
