"""Pictures that nobody drew for us: 200 nouns of Debian's colour emoji font, named in two languages.

    python benchmarks/emoji_pictures.py runs/emoji

writes ``train/`` with its ``captions.csv`` (the form of `recipes/finetune-folder.yaml`), and ``test/`` with
``suite.jsonl`` beside it (the form of `ziya-visual eval --suite`): the same nouns at other sizes, places,
rotations and on other backgrounds. Needs the package ``emoji`` for the CLDR names, and the font package
``fonts-noto-color-emoji``.
"""

import csv
import sys
from pathlib import Path

import emoji
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ziya_visual.core.files import write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.scenes.drawing import SIDE, background

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NOUNS = (
    "🍎🍌🍇🍉🍋🍊🍓🍍🍑🍒🥝🥑🍅🥕🌽🥦🥒🧄🍄🥜🍞🥐🥖🧀🥚🍳🥞🍔🍟🍕🌭🌮🍿🍚🍣🍩🍪🍰🧁🍫"
    "🍵🍺🍷🐒🐕🐈🐅🐎🐄🐖🐑🐐🐪🐘🐁🐇🐓🐧🐦🦆🦅🦉🦇🐺🐴🐝🐛🦋🐌🐞🦂🐢🐍🦎🐙🦑🦀🐟🐬🐳"
    "🦈🐆🦓🦒🦘🦌🦃🦚🦜🦢🐉🌵🌲🌴🍀🍁🌻🌹🌷🚗🚕🚌🚑🚒🚜🚲🛵🚂🚁🚀⛵🚢⚓🚦🏠🏭🏰⛺🎨🎸"
    "🎻🎺🥁🎹🎲🎯🎳⚽🏀🏈🎾🏐🥊🏆🎁🎈🎄🔔💡🔦📷📺📻💻📱☎⌚⏰🔋🔑🔒🔨🪓🔧✂📎📌📏📚📖"
    "✏🖊💼👓👑🎩👟👢🧢🧦🧤👗👖☂🛏🪑🛁🚪🧹🧽🧸💎💰🪙🧲🔭🔬🩺💊🧬🪐⭐🌙☀☁⚡❄🔥💧🌈"
)
PROMPTS = {"en": ("What is in the picture?", "Describe the picture."), "zh": ("图片里有什么？", "描述图片。")}
TRAIN, TEST = 12, 3  # renderings of each noun


def paste(symbol: str, rng: np.random.Generator) -> Image.Image:
    """Draw one noun at a random size, place and rotation on a textured background."""
    glyph = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(glyph).text((0, 0), symbol, font=ImageFont.truetype(FONT, 109), embedded_color=True)
    glyph = glyph.crop(glyph.getbbox()).rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
    glyph.thumbnail((round(SIDE * rng.uniform(0.45, 0.9)),) * 2, Image.Resampling.LANCZOS)
    picture = Image.fromarray(background(rng).clip(0, 255).astype(np.uint8)).convert("RGBA")
    place = tuple(int(rng.integers(SIDE - length + 1)) for length in glyph.size)
    picture.alpha_composite(glyph, place)
    return picture.convert("RGB")


def write(folder: Path, split: str, count: int, rng: np.random.Generator) -> list[Example]:
    """Draw ``count`` pictures of every noun into ``folder/split``, with their table and their questions."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows, examples = [], []
    for number, symbol in enumerate(NOUNS * count):
        path = folder / split / f"{number:04d}.png"
        paste(symbol, rng).save(path)
        for lang, (question, request) in PROMPTS.items():
            name = emoji.demojize(symbol, language=lang).strip(":").replace("_", " ")
            rows.append((path.name, lang, name))
            for task, prompt in (("vqa", question), ("caption", request)):
                turns = (Message("user", prompt), Message("assistant", name))
                image = ImageRef(path=f"{split}/{path.name}")
                examples.append(
                    Example(f"{number}-{task}-{lang}", lang, task, turns, image, path.name, (name,))
                )
    with (folder / split / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "lang", "text"), *rows])
    return examples


if __name__ == "__main__":
    out, rng = Path(sys.argv[1]), np.random.default_rng(0)
    emoji.config.load_language("zh")
    write(out, "train", TRAIN, rng)
    write_records(out / "suite.jsonl", write(out, "test", TEST, rng))
