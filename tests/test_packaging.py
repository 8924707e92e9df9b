"""What the code imports is what an installation brings, and the other way round."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = {"PIL": "pillow", "imagehash": "ImageHash", "yaml": "pyyaml"}  # packages with another import name
# Imported where somebody else's program runs us, or where a command says what to install.
OTHERS = {"lmms_eval", "pycocoevalcap"}
OURS = ("docs", "dev")  # extras for those who work on the project


def imported() -> dict[str, str]:
    """Package -> a file of ``src`` that imports it."""
    found: dict[str, str] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], str(path.relative_to(ROOT)))
    own = {"ziya_visual", *sys.stdlib_module_names}
    return {NAMED.get(name, name): where for name, where in found.items() if name not in own}


def declared() -> set[str]:
    """Packages of the dependencies and of the extras that are for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [wanted for name, wanted in project["optional-dependencies"].items() if name not in OURS]
    return {re.split(r"[\[<>=~! ]", one)[0].replace("-", "_") for one in sum(extras, project["dependencies"])}


def test_every_import_is_declared() -> None:
    undeclared = {name: where for name, where in imported().items() if name not in declared() | OTHERS}
    assert not undeclared, undeclared


def test_every_declared_package_is_imported() -> None:
    assert declared() <= imported().keys()


def test_recipes_are_part_of_the_package() -> None:
    inside = {path.name for path in (ROOT / "src" / "ziya_visual" / "recipes").glob("*.yaml")}
    assert inside == {path.name for path in (ROOT / "recipes").glob("*.yaml")}
    assert "quickstart.yaml" in inside
