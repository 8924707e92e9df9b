"""Every example runs as it is typed, on tiny checkpoints and files."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny import llm_folder
from tiny_models import talking, write_base_and_pictures

from ziya_visual.core.files import write_json, write_jsonl, write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.scenes import lessons
from ziya_visual.serve.server import running_server
from ziya_visual.train.pretrain import SHIPPED

EXAMPLES = Path(__file__).parents[1] / "examples"
COLORS = ("red", "green", "blue")
LIMIT_LINES = 60


@dataclass(frozen=True)
class Case:
    """What is typed after the example's name, and what it must say."""

    typed: tuple[str, ...]
    says: str
    served: str = ""  # the folder of a server that it needs


CASES = {
    "ask_server": Case(("{url}", "{red}", "What color?"), "", served="{talking}"),
    "chat": Case(("{talking}", "{red}", "What color?", "什么颜色？"), "什么颜色？\n  "),
    "check_translations": Case(("{folder}/pairs.tsv",), "ok\tTwo red stars.\t两个红色星形。\nnumbers\t"),
    "choose_name": Case(("{base}", "{folder}/suite.jsonl"), "% of 3 pictures, 3 names to choose from"),
    "compose": Case(("{base}", "{folder}/llm", "{out}"), "projection: [48, 32] taken over"),
    "finetune_folder": Case(("{base}", "{pictures}", "{out}", "2"), "try it: ziya-visual chat {out}/folder"),
    "many_questions": Case(("{talking}", "{red}", "What?", "什么？"), "2 questions, pictures encoded: 1\n"),
    "records": Case(("{pictures}", "{out}"), "3 records written, 0 rejected\n"),
    "score_file": Case(("{folder}/r.jsonl", "{folder}/p.json", "zh"), "CIDEr[zh:char]"),
    "search_pictures": Case(("{base}", "{pictures}", "a red ring", "红色"), "3 pictures\na red ring\n  "),
    "stream": Case(("{talking}", "{red}", "What color?"), ""),
    "translate_captions": Case(
        ("{folder}/captions.txt", "{out}", "lm", "{url}", "translate_plain"),
        "{english}\t{chinese}\n",
        served=str(SHIPPED / "lm"),
    ),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints, pictures and files by the names that the cases use."""
    folder = tmp_path_factory.mktemp("examples")
    write_base_and_pictures(folder, COLORS)
    llm_folder(folder / "llm")
    model = talking()
    save_checkpoint(
        folder / "talking", model=model.model, alignment=model._alignment, processor=model.processor
    )
    turns = (Message("user", "What color?"),)
    suite = [
        Example(c, "en", "vqa", (*turns, Message("assistant", c)), ImageRef(f"pictures/{c}.png"), c, (c,))
        for c in COLORS
    ]
    write_records(folder / "suite.jsonl", suite)
    english, chinese = lessons.sentence_pair(np.random.default_rng(1), for_forge=True)
    (folder / "captions.txt").write_text(f"{english}\n")
    pairs = "Two red stars.\t两个红色星形。\nTwo red stars.\t三个红色星形。\n"
    (folder / "pairs.tsv").write_text(pairs, encoding="utf-8")
    write_jsonl(
        folder / "r.jsonl", [{"image_id": n, "references": [t]} for n, t in enumerate(("红色", "蓝色"))]
    )
    write_json(folder / "p.json", [{"image_id": n, "caption": t} for n, t in enumerate(("红色", "绿色"))])
    paths = {"pictures": folder / "pictures", "red": folder / "pictures" / "red.png", "base": folder / "base"}
    found = {"folder": folder, "talking": folder / "talking", "english": english, "chinese": chinese, **paths}
    return {name: str(value) for name, value in found.items()}


@pytest.fixture
def url(request: pytest.FixtureRequest, names: dict[str, str]) -> Iterator[str]:
    """Of a server over the case's folder; nothing where it needs none."""
    folder = CASES[request.node.callspec.params["name"]].served
    if not folder:
        yield ""
        return
    with running_server(Path(folder.format(**names))) as address:
        yield address


def test_every_example_is_short_and_has_its_case() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if path.suffix == ".py"} == set(CASES)
    for name in CASES:
        text = (EXAMPLES / f"{name}.py").read_text()
        assert text.count("\n") < LIMIT_LINES, name
        assert f"python examples/{name}.py" in text, f"{name} does not say how it is run"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs(name: str, names: dict[str, str], url: str, tmp_path: Path) -> None:
    names = {**names, "url": url, "out": str(tmp_path / "out")}
    typed = [word.format(**names) for word in CASES[name].typed]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    assert CASES[name].says.format(**names) in done.stdout
