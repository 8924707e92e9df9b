"""Votes of people between two models, in a folder that ``leaderboard`` reads."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ziya_visual.core.files import hash_bytes
from ziya_visual.eval.judge.judgments import REVIEWS, Judgment, to_row

PROTOCOL, JUDGE = "vote", "people"
SCORES = {"left": (10.0, 0.0), "right": (0.0, 10.0), "tie": (5.0, 5.0)}


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers to one question; ``swapped`` puts the second model on the left."""

    picture: Image.Image
    question: str
    lang: str
    models: tuple[str, str]
    answers: tuple[str, str]
    swapped: bool

    @staticmethod
    def drawn(
        picture: Image.Image, question: str, lang: str, models: tuple[str, str], answers: tuple[str, str]
    ) -> Duel:
        """In an order by chance, so that nobody knows which model is where."""
        return Duel(picture, question, lang, models, answers, random.random() < 0.5)

    @property
    def shown(self) -> tuple[str, str]:
        """The answers, left and right."""
        return (self.answers[1], self.answers[0]) if self.swapped else self.answers


class Votes:
    """Appends to ``reviews.jsonl`` of a folder; pictures are kept beside it under their hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        path = folder / REVIEWS
        self._count = len(path.read_text("utf-8").splitlines()) if path.is_file() else 0

    def add(self, duel: Duel, choice: str) -> int:
        """Write down a choice: ``left``, ``right`` or ``tie``; returns how many votes there are now."""
        left, right = SCORES[choice]
        scores = (right, left) if duel.swapped else (left, right)
        name = hash_bytes(duel.picture.tobytes())[:16]
        judgment = Judgment(
            question_id=f"{name}-{hash_bytes(duel.question.encode())[:8]}",
            text=f"{left:g} {right:g}",
            scores=scores,
            stored_scores=None,
            models=duel.models,
            answers=duel.answers,
            swapped=duel.swapped,
            protocol=PROTOCOL,
            judge=JUDGE,
            sees="picture",
            lang=duel.lang,
            image=f"{name}.png",
            question=duel.question,
        )
        with self._lock:
            self._count += 1
            self.folder.mkdir(parents=True, exist_ok=True)
            duel.picture.save(self.folder / f"{name}.png")
            with (self.folder / REVIEWS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_row(judgment, self._count), ensure_ascii=False) + "\n")
            return self._count
