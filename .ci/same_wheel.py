"""Check that the wheel built from the sdist holds the files of the tree: python .ci/same_wheel.py dist"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(dist: Path) -> None:
    (wheel,), (_,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        built = {name: opened.read(name) for name in opened.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    here = {
        str(path.relative_to(source)): path.read_bytes()
        for folder in (source / "ziya_visual", source / "ziya_visual" / "recipes")  # a link
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    different = sorted(name for name in here.keys() | built.keys() if here.get(name) != built.get(name))
    if different:
        sys.exit(f"{wheel}: differs from the tree in {', '.join(different[:20])}")
    print(f"{wheel}: {len(built)} files, the same as in the tree")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
