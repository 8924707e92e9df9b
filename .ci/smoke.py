"""Run the quickstart's phases on a few scenes, from the installed package: python -I smoke.py OUT."""

import sys
from pathlib import Path

import ziya_visual
from ziya_visual.core.files import read_examples, write_records, write_text
from ziya_visual.core.recipe import load_recipe
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.report import ACCEPTED
from ziya_visual.forge.translate import translate
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.quickstart import CHECKPOINTS, RECIPE
from ziya_visual.scenes.dataset import write_training
from ziya_visual.serve.server import running_server
from ziya_visual.train.pretrain import SHIPPED, read_card
from ziya_visual.train.run import run_recipe

IMAGES, QUESTIONS, DIALOGUES, STEPS = 24, 4, 8, 2
ACCEPTED_PERCENT = 80.0  # the quickstart's own floor


def main(out: Path) -> None:
    package = Path(ziya_visual.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is not the installed package"
    assert (package / "py.typed").is_file()
    assert read_card(SHIPPED)["seed"] == 0

    english = write_training(
        out / "data", seed=0, images=IMAGES, questions_per_image=QUESTIONS, dialogues=DIALOGUES
    )
    write_records(out / "english.jsonl", english)
    write_text(out / "source.txt", "\n".join(e.messages[-1].content for e in english) + "\n")
    with running_server(SHIPPED / "lm") as url:
        report = translate(
            english, to="zh", out=out / "forge", sending=Sending("lm", url), prompt="translate_plain"
        )
    print(f"forge: {report.accepted} of {report.records} accepted")
    assert report.accepted_percent >= ACCEPTED_PERCENT, report
    assert len(read_examples(out / "forge" / ACCEPTED)) == report.accepted

    changes = [f"out={out / 'train'}", f"data.path=[{out / 'english.jsonl'}, {out / 'forge' / ACCEPTED}]"]
    changes += [f"model.vision={SHIPPED / 'vit'}", f"model.language_model={SHIPPED / 'lm'}"]
    changes += [f"stages.{stage}.steps={STEPS}" for stage in range(3)]
    chat = run_recipe(load_recipe(RECIPE, [*changes, *(f"stages.{s}.warmup_steps=1" for s in range(3))]))
    assert set(CHECKPOINTS) < {path.name for path in chat.parent.iterdir()}
    model = ZiyaVisual.from_pretrained(chat)
    picture = next((out / "data" / "images").iterdir())
    print("trained", STEPS, "steps per stage; answer:", model.chat(picture, "What color is the circle?"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
