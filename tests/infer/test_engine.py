"""Several pictures, one, or none: each dialogue is answered as by stock, alone or among others."""

import re
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import seeing

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import Turn, TurnLike
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.scheduler import Finished, Piece, Request, Scheduler

LENGTH = 24


@pytest.fixture(scope="module", params=["first", "inline"])
def model(request: Any, tokenizer: Any) -> ZiyaVisual:
    return seeing(tokenizer, request.param)


def dialogues(pictures: list[Image.Image]) -> list[tuple[list[Image.Image], list[Turn]]]:
    one, two, three = pictures
    return [
        ([one, two, three], [Turn("user", "红色 and blue?", (0, 2, 10))]),
        ([two], [Turn("user", "What color?", (0,)), Turn("assistant", "red"), Turn("user", "圆环呢？")]),
        ([], [Turn("user", "How many?")]),
        ([three], [Turn("system", "Be brief."), Turn("user", "What color?", (0,))]),
        ([one], [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c", (1,))]),
        ([three], [Turn("user", "Which shape?")]),
        ([one, one], [Turn("user", "a", (1,)), Turn("assistant", "b"), Turn("user", "c", (0,))]),
    ]


def stock(model: ZiyaVisual, shown: list[Image.Image], turns: list[Turn]) -> str:
    """By stock ``generate``, of the ids that the chat format gives."""
    queries = model.processor.num_query_tokens
    encoded = model.format.encode(
        turns,
        num_image_tokens=queries if shown else 0,
        num_images=len(shown),
        add_generation_prompt=True,
    )
    ids = torch.tensor([encoded.ids])
    pixels = model.processor.pixels(shown) if shown else torch.zeros(1, 3, 16, 16)
    found = model.model.generate(
        pixel_values=pixels, input_ids=ids, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0
    )
    return model.decode(found[0, ids.shape[1] :].tolist())


def test_each_dialogue_is_answered_as_stock_does(model: ZiyaVisual, pictures: list[Image.Image]) -> None:
    answers = [model.chat_about(shown, turns, max_new_tokens=LENGTH) for shown, turns in dialogues(pictures)]
    assert answers == [stock(model, shown, turns) for shown, turns in dialogues(pictures)]
    assert len(set(answers)) == len(answers)
    first, *rest = dialogues(pictures)[0][0]
    assert model.chat_about([*rest, first], dialogues(pictures)[0][1], max_new_tokens=LENGTH) != answers[0]


def test_dialogues_that_are_decoded_together_are_answered_as_alone(
    model: ZiyaVisual, pictures: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = Scheduler(model)

    def ask(turns: Sequence[TurnLike], shown: Sequence[Image.Image], length: int) -> SimpleQueue[Any]:
        found: SimpleQueue[Any] = SimpleQueue()
        scheduler.submit(Request(turns, shown, length, put=found.put))
        return found

    waiting = [ask(turns, shown, LENGTH) for shown, turns in dialogues(pictures) * 2]
    answers = []
    for found in waiting:
        said = ""
        while isinstance(piece := found.get(timeout=60), Piece):
            said += piece.text
        assert isinstance(piece, Finished)
        answers.append(said)
    for refused in (ask([Turn("user", "a", (0,))], pictures, 9), ask([], pictures[:1], 9)):
        error = refused.get(timeout=60)
        assert isinstance(error, DataError)
        assert re.search(r"shows 1 images|at least one turn", str(error))
    scheduler.close()
    assert caplog.text == ""
    assert answers == [
        model.chat_about(shown, turns, max_new_tokens=LENGTH) for shown, turns in dialogues(pictures) * 2
    ]


def test_pictures_come_in_any_form(model: ZiyaVisual, pictures: list[Image.Image], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(paths, pictures, strict=False):
        picture.save(path)
    said = model.chat(pictures[:2], "What?", max_new_tokens=LENGTH)
    assert model.chat([paths[0], str(paths[1])], "What?", max_new_tokens=LENGTH) == said
    streamed = model.stream(pictures[:2], [Message("user", "What?")], max_new_tokens=LENGTH)
    assert said.startswith("".join(streamed).rstrip("\ufffd"))
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = Image.new("RGB", (16, 16), "white")
    assert model.chat(clear, "What?", max_new_tokens=LENGTH) == model.chat(
        white, "What?", max_new_tokens=LENGTH
    )
    with pytest.raises(DataError, match="shows 1 images, but there are 2"):
        model.chat_about(pictures[:2], [Turn("user", "a", (0,))])
