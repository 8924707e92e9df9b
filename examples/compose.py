"""Compose a checkpoint from the image encoder and Q-Former of one model and another language model.

python examples/compose.py runs/quickstart/checkpoint my-llm runs/composed

The new projection is untrained: train it with stage 1 of a recipe.
"""

import sys
from pathlib import Path

from ziya_visual.model.build.init import init


def main(bridge: str, llm: str, out: str) -> None:
    for name, path in init(bridge=bridge, llm=llm, out=Path(out)).items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
