"""Translate a file of captions, one per line, through any OpenAI-compatible endpoint; a killed run resumes.

python examples/translate_captions.py captions.txt runs/captions-zh gpt-4o https://api.openai.com/v1

The key is read from OPENAI_API_KEY. The quickstart's tiny model works as well; it reads numbered lines:

ziya-visual serve src/ziya_visual/shipped/lm
python examples/translate_captions.py captions.txt runs/zh lm http://127.0.0.1:8000/v1 translate_plain
"""

import sys
from pathlib import Path

from ziya_visual.core.files import read_examples
from ziya_visual.core.records import Example, Message
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.report import ACCEPTED
from ziya_visual.forge.translate import translate


def main(path: str, out: str, model: str, base_url: str, prompt: str = "translate") -> None:
    texts = Path(path).read_text(encoding="utf-8").splitlines()
    captions = [
        Example(str(number), "en", "caption", (Message("assistant", text),))
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    report = translate(captions, to="zh", out=Path(out), sending=Sending(model, base_url), prompt=prompt)
    for example in read_examples(Path(out) / ACCEPTED):
        print(f"{texts[int(example.provenance.translated_from) - 1]}\t{example.messages[0].content}")
    print(f"accepted {report.accepted} of {report.records}; rejected: {report.rejected}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
