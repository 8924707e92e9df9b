"""The web page: a dialogue about pictures, where the model looks, a search, two models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import load_image
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.eval.judge.files import language_of
from ziya_visual.infer.attention_map import over_picture, where_it_looks
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.serve.guard import read_key, refuse_taken
from ziya_visual.serve.votes import Duel, Votes
from ziya_visual.serve.web_words import EN, ZH

EXAMPLES = ["What color is the ring?", "图中有几个物体？", "Describe the picture.", "请描述这张图片。"]
LIMIT_BYTES = "20mb"  # of an uploaded file
USER = "ziya"
WIDTH = 320  # pixels below which columns stand below each other


def build_page(
    model: ZiyaVisual,
    *,
    name: str = "a",
    other: tuple[ZiyaVisual, str] | None = None,
    votes: Path = Path("runs/votes"),
) -> Any:
    """The page over a model.

    Args:
        model: that answers.
        name: of the model in the votes.
        other: a second model and its name, for the side-by-side tab.
        votes: the folder that votes go to.

    Returns:
        gradio's page and the words it is launched with.
    """
    words = gradio.I18n(en=EN, zh=ZH, **{"zh-CN": ZH, "zh-TW": ZH})
    with gradio.Blocks(title="Ziya-Visual", analytics_enabled=False) as page:
        gradio.Markdown("# Ziya-Visual")
        with gradio.Tab(words("chat")):
            _chat(model, words)
        with gradio.Tab(words("look")):
            _look(model, words)
        if model.retrieves:
            with gradio.Tab(words("find")):
                _find(model, words)
        if other is not None:
            with gradio.Tab(words("compare")):
                _compare((model, other[0]), (name, other[1]), Votes(votes), words)
    return page, words


def _chat(model: ZiyaVisual, words: Any) -> None:
    def answer(message: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
        try:
            turns, pictures = _dialogue([*history, {"role": "user", "content": message}])
            said = ""
            for piece in model.stream(pictures, turns):
                said += piece
                yield said
        except DataError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    gradio.ChatInterface(
        answer,
        multimodal=True,
        chatbot=gradio.Chatbot(
            label=words("dialogue"), height="60vh", buttons=["copy"], render_markdown=False
        ),
        textbox=gradio.MultimodalTextbox(
            file_count="multiple",
            file_types=["image"],
            sources=["upload"],
            placeholder=words("ask"),
            label=words("question"),
            show_label=False,
        ),
        examples=[[{"text": example, "files": []}] for example in EXAMPLES],
        run_examples_on_click=False,
        api_visibility="private",
    )


def _dialogue(history: list[dict[str, Any]]) -> tuple[list[Turn], list[Image.Image]]:
    """Turns and pictures of gradio's messages, whose contents come in several forms."""
    turns: list[Turn] = []
    pictures: list[Image.Image] = []
    for message in history:
        text, places = "", []
        for part in _parts(message["content"]):
            if isinstance(part, str):
                text += f"\n{part}" if text else part
            else:
                places.append(len(text))
                pictures.append(load_image(part))
        if turns and turns[-1].role == message["role"]:  # gradio writes a picture as a message of its own
            before = turns.pop()
            places = [*before.images, *(place + len(before.content) for place in places)]
            text = "\n".join(filter(None, (before.content, text)))
        turns.append(Turn(message["role"], text, tuple(places)))
    if not turns[-1].content.strip():
        raise DataError("write a question · 请输入问题")
    return turns, pictures


def _parts(content: Any) -> Iterator[str | Path]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict) and content.get("type") == "text":
        yield content["text"]
    elif isinstance(content, dict) and content.get("type") == "file":
        yield Path(content["file"]["path"])
    elif isinstance(content, dict):
        yield from (Path(file) for file in content.get("files") or [])
        yield content.get("text") or ""
    else:
        for part in content:
            yield from _parts(part)


def _look(model: ZiyaVisual, words: Any) -> None:
    def show(picture: Image.Image | None, question: str) -> Image.Image:
        return over_picture(_shown(picture), where_it_looks(model, _shown(picture), question))

    with gradio.Row():
        with gradio.Column(min_width=WIDTH):
            picture, question, button = _asking(words)
        with gradio.Column(min_width=WIDTH):
            seen = gradio.Image(label=words("seen"), interactive=False)
    button.click(show, [picture, question], seen, api_visibility="private")


def _find(model: ZiyaVisual, words: Any) -> None:
    def search(pictures: list[Any] | None, text: str) -> list[tuple[Image.Image, str]]:
        if not pictures or not text.strip():
            raise gradio.Error("pictures and a text are needed · 需要图片和文字", print_exception=False)
        opened = [picture for picture, _ in pictures]
        (asked,) = model.embed([text])
        scores = [float((found @ asked).max()) for found in model.embed(opened)]
        order = sorted(range(len(opened)), key=lambda place: -scores[place])
        return [(opened[place], f"{scores[place]:.3f}") for place in order]

    with gradio.Row():
        with gradio.Column(min_width=WIDTH):
            pictures = gradio.Gallery(
                label=words("pictures"), type="pil", interactive=True, file_types=["image"]
            )
            text = gradio.Textbox(label=words("text"))
            button = gradio.Button(words("search"), variant="primary")
        with gradio.Column(min_width=WIDTH):
            best = gradio.Gallery(label=words("best"), interactive=False)
    button.click(search, [pictures, text], best, api_visibility="private")
    text.submit(search, [pictures, text], best, api_visibility="private")


def _compare(models: tuple[ZiyaVisual, ZiyaVisual], names: tuple[str, str], votes: Votes, words: Any) -> None:
    def ask(picture: Image.Image | None, question: str) -> Any:
        if not question.strip():
            raise gradio.Error("write a question · 请输入问题", print_exception=False)
        first, second = (model.chat(_shown(picture), question) for model in models)
        duel = Duel.drawn(_shown(picture), question, language_of(question), names, (first, second))
        return *duel.shown, duel, *[gradio.update(interactive=True)] * 3

    def vote(duel: Duel, choice: str) -> Any:
        return votes.add(duel, choice), *[gradio.update(interactive=False)] * 3

    duel = gradio.State()
    with gradio.Row():
        with gradio.Column(min_width=WIDTH):
            picture, question, button = _asking(words)
        with gradio.Column(min_width=WIDTH):
            with gradio.Row():
                shown = [gradio.Textbox(label=words(side), lines=4) for side in ("left", "right")]
            choices = {
                choice: gradio.Button(words(word), interactive=False)
                for choice, word in (("left", "left_better"), ("tie", "tie"), ("right", "right_better"))
            }
            count = gradio.Number(label=words("votes"), interactive=False)
    buttons = list(choices.values())
    button.click(ask, [picture, question], [*shown, duel, *buttons], api_visibility="private")
    for choice, pressed in choices.items():
        pressed.click(
            lambda duel, choice=choice: vote(duel, choice), duel, [count, *buttons], api_visibility="private"
        )


def _asking(words: Any) -> tuple[Any, Any, Any]:
    """A picture, a question, and the button to press."""
    return (
        gradio.Image(type="pil", label=words("picture"), sources=["upload", "clipboard"]),
        gradio.Textbox(label=words("question")),
        gradio.Button(words("show"), variant="primary"),
    )


def _shown(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise gradio.Error("give a picture · 请提供图片", print_exception=False)
    return picture


def web(
    checkpoint: Path,
    *,
    against: Path | None = None,
    votes: Path = Path("runs/votes"),
    host: str = "127.0.0.1",
    port: int = 7860,
    api_key_env: str | None = None,
    dtype: Dtype = "auto",
) -> None:
    """Open the page until interrupted; with a key it asks for the user ``ziya`` and the key.

    Raises:
        CheckpointError: a checkpoint cannot be opened.
        ConfigError: a public address without a key, the named environment variable is empty, or the port
            is taken.
    """
    key = read_key(host, api_key_env)
    model = ZiyaVisual.from_pretrained(checkpoint, dtype=dtype)
    other = None
    if against is not None:
        other = ZiyaVisual.from_pretrained(against, dtype=dtype), against.resolve().name
    refuse_taken(host, port)
    page, words = build_page(model, name=checkpoint.resolve().name, other=other, votes=votes)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        auth=None if key is None else (USER, key),
        i18n=words,
        max_file_size=LIMIT_BYTES,
        footer_links=[],
    )
