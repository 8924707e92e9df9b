"""Compose a checkpoint: image encoder and Q-Former of one, the language model of another folder.

python examples/compose.py runs/quickstart/checkpoint my-llm runs/composed

The new projection knows nothing yet: train it with stage 1 of a recipe.
"""

import sys
from pathlib import Path

from ziya_visual.model.build.init import init


def main(bridge: str, llm: str, out: str) -> None:
    for what, where in init(bridge=bridge, llm=llm, out=Path(out)).items():
        print(f"{what}: {where}")


if __name__ == "__main__":
    main(*sys.argv[1:])
