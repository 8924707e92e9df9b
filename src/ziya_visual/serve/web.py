"""The web page: chat about pictures, attention maps, picture search, and two models side by side."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import load_image
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.eval.judge.files import language_of
from ziya_visual.eval.judge.judgments import REVIEWS, Judgment, to_row
from ziya_visual.infer.attention_map import attention_map, overlay
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.serve.guard import read_key, refuse_taken

EXAMPLES = ["What color is the ring?", "图中有几个物体？", "Describe the picture.", "请描述这张图片。"]
LIMIT_BYTES = "20mb"  # of an uploaded file
USER = "ziya"
MIN_COLUMN_WIDTH = 320  # pixels; narrower columns are stacked

# The texts of the page in English and Chinese; the browser's language selects one.
WORDS = {
    "chat": ("Chat", "对话"),
    "ask": ("Ask about pictures; paste, drop or upload them", "就图片提问；可粘贴、拖放或上传"),
    "dialogue": ("Dialogue", "对话记录"),
    "attention": ("Attention", "注意力"),
    "picture": ("Picture", "图片"),
    "question": ("Question", "问题"),
    "show": ("Show", "显示"),
    "attention_label": ("Red marks the patches the Q-Former attends to", "红色为 Q-Former 关注的区域"),
    "find": ("Find pictures", "图片检索"),
    "pictures": ("Pictures to search", "待检索的图片"),
    "text": ("Description", "图片内容"),
    "search": ("Search", "检索"),
    "best": ("Best matches first", "按匹配程度排列"),
    "compare": ("Side by side", "并排比较"),
    "left": ("Left", "左"),
    "right": ("Right", "右"),
    "left_better": ("Left is better", "左边更好"),
    "right_better": ("Right is better", "右边更好"),
    "tie": ("Tie", "不相上下"),
    "votes": ("Votes so far", "已有票数"),
}
VOTE_PROTOCOL, VOTE_JUDGE = "vote", "people"
VOTE_SCORES = {"left": (10.0, 0.0), "right": (0.0, 10.0), "tie": (5.0, 5.0)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one question; ``swapped`` puts the second model on the left."""

    picture: Image.Image
    question: str
    lang: str
    models: tuple[str, str]
    answers: tuple[str, str]
    swapped: bool

    @property
    def shown(self) -> tuple[str, str]:
        """Return the left and the right answer."""
        return (self.answers[1], self.answers[0]) if self.swapped else self.answers


class Votes:
    """Appends votes to ``reviews.jsonl`` in a folder, and saves the pictures beside it by hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        path = folder / REVIEWS
        self._count = len(path.read_text("utf-8").splitlines()) if path.is_file() else 0

    def add(self, comparison: Comparison, choice: str) -> int:
        """Record a vote for ``left``, ``right`` or ``tie``; return the number of votes so far."""
        left, right = VOTE_SCORES[choice]
        scores = (right, left) if comparison.swapped else (left, right)
        name = hash_bytes(comparison.picture.tobytes())[:16]
        judgment = Judgment(
            question_id=f"{name}-{hash_bytes(comparison.question.encode())[:8]}",
            text=f"{left:g} {right:g}",
            scores=scores,
            stored_scores=None,
            models=comparison.models,
            answers=comparison.answers,
            swapped=comparison.swapped,
            protocol=VOTE_PROTOCOL,
            judge=VOTE_JUDGE,
            sees="picture",
            lang=comparison.lang,
            image=f"{name}.png",
            question=comparison.question,
        )
        with self._lock:
            self._count += 1
            self.folder.mkdir(parents=True, exist_ok=True)
            comparison.picture.save(self.folder / f"{name}.png")
            with (self.folder / REVIEWS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_row(judgment, self._count), ensure_ascii=False) + "\n")
            return self._count


def build_page(
    model: ZiyaVisual,
    *,
    name: str = "a",
    other: tuple[ZiyaVisual, str] | None = None,
    votes: Path = Path("runs/votes"),
) -> Any:
    """Build the gradio page; return it with the translations to launch it with.

    ``name`` is the model's name in the votes; ``other`` is a second model and its name, for a tab that shows
    both side by side.
    """
    english = {key: en for key, (en, _) in WORDS.items()}
    chinese = {key: zh for key, (_, zh) in WORDS.items()}
    words = gradio.I18n(en=english, zh=chinese, **{"zh-CN": chinese, "zh-TW": chinese})
    with gradio.Blocks(title="Ziya-Visual", analytics_enabled=False) as page:
        gradio.Markdown("# Ziya-Visual")
        with gradio.Tab(words("chat")):
            _add_chat(model, words)
        with gradio.Tab(words("attention")):
            _add_attention(model, words)
        if model.retrieves:
            with gradio.Tab(words("find")):
                _add_search(model, words)
        if other is not None:
            with gradio.Tab(words("compare")):
                _add_comparison((model, other[0]), (name, other[1]), Votes(votes), words)
    return page, words


def _add_chat(model: ZiyaVisual, words: Any) -> None:
    def answer(message: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
        try:
            turns, pictures = _dialogue([*history, {"role": "user", "content": message}])
            text = ""
            for piece in model.stream(pictures, turns):
                text += piece
                yield text
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
    """Convert gradio's messages, whose contents have several forms, to turns and pictures."""
    turns: list[Turn] = []
    pictures: list[Image.Image] = []
    for message in history:
        text, positions = "", []
        for part in _parts(message["content"]):
            if isinstance(part, str):
                text += f"\n{part}" if text else part
            else:
                positions.append(len(text))
                pictures.append(load_image(part))
        if turns and turns[-1].role == message["role"]:  # gradio sends a picture as a separate message
            previous = turns.pop()
            positions = [*previous.images, *(at + len(previous.content) for at in positions)]
            text = "\n".join(filter(None, (previous.content, text)))
        turns.append(Turn(message["role"], text, tuple(positions)))
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


def _add_attention(model: ZiyaVisual, words: Any) -> None:
    def show(picture: Image.Image | None, question: str) -> Image.Image:
        picture = _require(picture)
        return overlay(picture, attention_map(model, picture, question))

    with gradio.Row():
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            picture, question, button = _inputs(words)
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            result = gradio.Image(label=words("attention_label"), interactive=False)
    button.click(show, [picture, question], result, api_visibility="private")


def _add_search(model: ZiyaVisual, words: Any) -> None:
    def search(pictures: list[Any] | None, text: str) -> list[tuple[Image.Image, str]]:
        if not pictures or not text.strip():
            raise gradio.Error("add pictures and a description · 请提供图片和文字", print_exception=False)
        opened = [picture for picture, _ in pictures]
        (query,) = model.embed([text])
        scores = [float((embedding @ query).max()) for embedding in model.embed(opened)]
        order = sorted(range(len(opened)), key=lambda index: -scores[index])
        return [(opened[index], f"{scores[index]:.3f}") for index in order]

    with gradio.Row():
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            pictures = gradio.Gallery(
                label=words("pictures"), type="pil", interactive=True, file_types=["image"]
            )
            text = gradio.Textbox(label=words("text"))
            button = gradio.Button(words("search"), variant="primary")
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            best = gradio.Gallery(label=words("best"), interactive=False)
    button.click(search, [pictures, text], best, api_visibility="private")
    text.submit(search, [pictures, text], best, api_visibility="private")


def _add_comparison(
    models: tuple[ZiyaVisual, ZiyaVisual], names: tuple[str, str], votes: Votes, words: Any
) -> None:
    def ask(picture: Image.Image | None, question: str) -> Any:
        if not question.strip():
            raise gradio.Error("write a question · 请输入问题", print_exception=False)
        picture = _require(picture)
        first, second = (model.chat(picture, question) for model in models)
        swapped = random.random() < 0.5  # so that voters cannot tell the models
        comparison = Comparison(picture, question, language_of(question), names, (first, second), swapped)
        return *comparison.shown, comparison, *[gradio.update(interactive=True)] * 3

    def vote(comparison: Comparison, choice: str) -> Any:
        return votes.add(comparison, choice), *[gradio.update(interactive=False)] * 3

    comparison = gradio.State()
    with gradio.Row():
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            picture, question, button = _inputs(words)
        with gradio.Column(min_width=MIN_COLUMN_WIDTH):
            with gradio.Row():
                shown = [gradio.Textbox(label=words(side), lines=4) for side in ("left", "right")]
            choices = {
                choice: gradio.Button(words(word), interactive=False)
                for choice, word in (("left", "left_better"), ("tie", "tie"), ("right", "right_better"))
            }
            count = gradio.Number(label=words("votes"), interactive=False)
    buttons = list(choices.values())
    button.click(ask, [picture, question], [*shown, comparison, *buttons], api_visibility="private")
    for choice, choice_button in choices.items():
        choice_button.click(
            lambda comparison, choice=choice: vote(comparison, choice),
            comparison,
            [count, *buttons],
            api_visibility="private",
        )


def _inputs(words: Any) -> tuple[Any, Any, Any]:
    """Create a picture, a question and a button."""
    return (
        gradio.Image(type="pil", label=words("picture"), sources=["upload", "clipboard"]),
        gradio.Textbox(label=words("question")),
        gradio.Button(words("show"), variant="primary"),
    )


def _require(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise gradio.Error("add a picture · 请提供图片", print_exception=False)
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
    """Serve the page until interrupted; with a key, it asks for the user ``ziya`` and the key."""
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
