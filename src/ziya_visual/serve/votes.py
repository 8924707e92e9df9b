"""Human votes between two models, in a folder that ``leaderboard`` reads."""

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
class Comparison:
    """Two answers to one question; ``swapped`` puts the second model on the left."""

    picture: Image.Image
    question: str
    lang: str
    models: tuple[str, str]
    answers: tuple[str, str]
    swapped: bool

    @staticmethod
    def shuffled(
        picture: Image.Image, question: str, lang: str, models: tuple[str, str], answers: tuple[str, str]
    ) -> Comparison:
        """Create a comparison in random order, so that voters cannot tell the models."""
        return Comparison(picture, question, lang, models, answers, random.random() < 0.5)

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
        left, right = SCORES[choice]
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
            protocol=PROTOCOL,
            judge=JUDGE,
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
