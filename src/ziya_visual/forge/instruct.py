"""Dialogues from captions, boxes and questions by in-context learning, as for LLaVA and Ziya-Visual."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import write_json, write_jsonl, write_records
from ziya_visual.core.records import Box, Example, ImageRef, Message, Provenance
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.forge.checks import any_pair
from ziya_visual.forge.checks.dictionary import phrases
from ziya_visual.forge.checks.near_duplicates import near_duplicates
from ziya_visual.forge.planning import Estimate, batched, estimate, vetted
from ziya_visual.forge.prompting import language_name, load_prompt, read_json_reply, table, with_image
from ziya_visual.forge.report import ACCEPTED, REJECTED, REPORT, reason_names, summary

FALSE_PREMISE, GROUNDED = "false_premise", "grounded"
KINDS = ("conversation", "detail", "reasoning", GROUNDED, FALSE_PREMISE)
CHECKS = (
    "language", "refusal", "repetition", "placeholders", "mentions_source", "same_question", "boxes",
)  # fmt: skip
DIALOGUE_TOKENS = 250  # of one dialogue, about
_SOURCE_WORDS = phrases("source_words")
_BOX = re.compile(r"\[\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\]")


@dataclass(frozen=True, slots=True)
class KnownImage:
    """Everything known in words about one image; ``questions`` have their answers."""

    image_id: str
    image: ImageRef | None
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    questions: tuple[tuple[str, str], ...]
    source: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dialogue to make."""

    known: KnownImage
    kind: str
    lang: str

    @property
    def id(self) -> str:
        """Return the id of the example to be made."""
        return f"{self.known.image_id}:{self.kind}:{self.lang}"


def known_images(examples: Sequence[Example]) -> list[KnownImage]:
    """Collect captions, boxes and questions by image, in order; skip images without a caption."""
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        if example.task in ("caption", "vqa", "grounded"):
            by_image.setdefault(example.image_id or example.id, []).append(example)
    images = []
    for image_id, group in by_image.items():
        captioned = [e for e in group if e.task == "caption"]
        texts = [m.content.strip() for e in captioned for m in e.messages if m.role == "assistant"]
        captions = tuple(dict.fromkeys(text for text in texts if text))
        if captions:
            questions = dict.fromkeys(
                (question.content.strip(), answer.content.strip())
                for example in group
                if example.task != "caption"
                for question, answer in itertools.pairwise(example.messages)
                if (question.role, answer.role) == ("user", "assistant")
            )
            boxes = dict.fromkeys(box for example in group for box in example.boxes)
            image, source = captioned[0].image, captioned[0].source
            images.append(KnownImage(image_id, image, captions, tuple(boxes), tuple(questions), source))
    return images


def plan_dialogues(examples: Sequence[Example], lang: str, kinds: Sequence[str]) -> list[Dialogue]:
    """List every kind of dialogue for every captioned image, ``grounded`` only for those with boxes."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of conversation {kind!r}{nearest(kind, KINDS)}")
    images = known_images(examples)
    return [Dialogue(i, kind, lang) for i in images for kind in kinds if i.boxes or kind != GROUNDED]


def instruct(
    examples: Sequence[Example],
    *,
    lang: str,
    out: Path,
    sending: Sending,
    kinds: Sequence[str] = KINDS,
    turns: int = 3,
    prompt: str = "instruct",
    show_image: bool = False,
) -> dict[str, Any]:
    """Make a dialogue of every kind for every captioned image, and return the report.

    A second run with the same arguments sends nothing.

    Args:
        examples: Captions in any language, and whatever else is known about their images.
        lang: Language of the dialogues.
        out: Folder for accepted.jsonl, rejected.jsonl, report.json and the ledger.
        sending: The model, its endpoint, and how to send requests; temperature 0.7 unless it has another.
        kinds: Kinds from :data:`KINDS`; ``grounded`` only for images with boxes.
        turns: Questions in a conversation.
        prompt: A name or a ``.jinja`` file.
        show_image: Whether to send the image too.

    Raises:
        ConfigError, DataError, EndpointError: As :func:`ziya_visual.forge.translate.translate`.
    """
    started = time.monotonic()
    dialogues = plan_dialogues(list(vetted(examples)), lang, kinds)
    with Ledger(out) as ledger:
        bodies = (body_of(d, sending, turns=turns, prompt=prompt, show_image=show_image) for d in dialogues)
        keys = [key for batch in batched(bodies, 100) for key in ledger.add(batch)]
        sent = ask_all(ledger, keys, sending, title="forge instruct")
        provenance = Provenance(
            origin="forge", model=sending.model, prompt_hash=load_prompt(prompt).hash, checks=CHECKS
        )
        accepted, rejected = _read(ledger, dialogues, keys, provenance)
        write_records(out / ACCEPTED, accepted)
        write_jsonl(out / REJECTED, rejected)
        reasons = Counter(name for row in rejected for name in reason_names(row))
        counts = {
            "pictures": len(known_images(examples)),
            "records": len(dialogues),
            "accepted": len(accepted),
            "requests": len(set(keys)),
            "sent": sent,
        }
        report = summary(ledger, sending, counts, reasons, started)
    write_json(out / REPORT, report)
    return report


def body_of(
    dialogue: Dialogue, sending: Sending, *, turns: int, prompt: str, show_image: bool = False
) -> dict[str, Any]:
    """Return the body of the request for one dialogue."""
    known = dialogue.known
    by_lang = table("instruct_examples")
    values = {
        "language": language_name(dialogue.lang),
        "kind": dialogue.kind,
        "turns": turns,
        "examples": [by_lang.get(dialogue.lang.split("-")[0], by_lang["en"])[dialogue.kind]],
        "captions": known.captions,
        "boxes": known.boxes,
        "asked": known.questions,
    }
    content: Any = load_prompt(prompt).render(values)
    if show_image:
        content = with_image(content, Example(known.image_id, "", "caption", (), image=known.image))
    messages = [{"role": "user", "content": content}]
    defaults = {"model": sending.model, "messages": messages, "max_tokens": 1024, "temperature": 0.7}
    return {**defaults, **sending.params}


def estimate_instructions(
    examples: Sequence[Example], *, lang: str, sending: Sending, kinds: Sequence[str], turns: int, prompt: str
) -> Estimate:
    """Estimate the cost of dialogues without sending anything; images that are sent cost more."""
    dialogues = plan_dialogues(examples, lang, kinds)
    bodies = (body_of(dialogue, sending, turns=turns, prompt=prompt) for dialogue in dialogues)
    return estimate(sending, len(dialogues), bodies, len(dialogues) * DIALOGUE_TOKENS)


# --- from a raw reply to an example ---


def _read(
    ledger: Ledger, dialogues: Sequence[Dialogue], keys: Sequence[str], provenance: Provenance
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Return the accepted examples and the rejected rows, near-duplicates of earlier examples among them."""
    examples: list[Example] = []
    rejected: list[dict[str, Any]] = []
    for dialogue, key in zip(dialogues, keys, strict=True):
        outcome = ledger.outcome(key)
        kind, boxes = dialogue.kind, dialogue.known.boxes
        messages, reasons = read_dialogue(outcome, dialogue.lang, kind=kind, boxes=boxes)
        if not reasons:
            known, grounded = dialogue.known, kind == GROUNDED
            example = Example(
                id=dialogue.id,
                lang=dialogue.lang,
                task="grounded" if grounded else "dialogue",
                messages=messages,
                image=known.image,
                image_id=known.image_id,
                boxes=boxes if grounded else (),
                meta={"kind": kind},
                source=known.source,
                provenance=provenance,
            )
            examples.append(example)
            continue
        ledger.reject({key: reasons[0]})
        source, target = dialogue.known.captions, outcome.answer
        rejected.append({"id": dialogue.id, "reasons": reasons, "source": source, "target": target})
    texts = ["\n".join(message.content for message in example.messages) for example in examples]
    twins = {later: earlier for earlier, later in near_duplicates(texts)}
    for later, earlier in twins.items():
        reason = f"near_duplicate: {examples[earlier].id}"
        source = tuple(message.content for message in examples[earlier].messages)
        twin = examples[later].id
        rejected.append({"id": twin, "reasons": [reason], "source": source, "target": texts[later]})
    return [example for place, example in enumerate(examples) if place not in twins], rejected


def read_dialogue(
    outcome: Outcome, lang: str, *, kind: str = "conversation", boxes: Sequence[Box] = ()
) -> tuple[tuple[Message, ...], list[str]]:
    """Return the dialogue in a reply, and the reasons against it (then the dialogue may be empty)."""
    if outcome.unusable:
        return (), [outcome.unusable]
    reply = str(outcome.answer)
    turns = read_json_reply(reply).get("turns")
    if not isinstance(turns, list) or not turns:
        return (), ["refusal" if any_pair.refuses(reply) else "not_json"]
    messages: list[Message] = []
    for turn in turns:
        pair = (turn.get("question"), turn.get("answer")) if isinstance(turn, dict) else (None, None)
        if not all(isinstance(text, str) and text.strip() for text in pair):
            return (), ["turn_without_question_or_answer"]
        messages += [Message("user", str(pair[0]).strip()), Message("assistant", str(pair[1]).strip())]
    return tuple(messages), _judge(messages, lang, kind, boxes)


def _judge(messages: Sequence[Message], lang: str, kind: str, boxes: Sequence[Box]) -> list[str]:
    texts = [message.content for message in messages]
    questions = [message.content for message in messages if message.role == "user"]
    named_boxes = [tuple(map(float, match)) for text in texts for match in _BOX.findall(text)]
    known_boxes = {tuple(map(float, box.xyxy)) for box in boxes}
    failed = {
        "language": not all(any_pair.in_language(text, lang) for text in texts),
        "refusal": kind != FALSE_PREMISE and any(any_pair.refuses(text) for text in texts),
        "repetition": any(any_pair.repeats(text) for text in texts),
        "placeholders": any("<image>" in text for text in texts),
        "mentions_source": any(_SOURCE_WORDS.search(text) for text in texts),
        "same_question": len(set(questions)) < len(questions),
        "boxes": not known_boxes.issuperset(named_boxes) or (kind == GROUNDED and not named_boxes),
    }
    assert tuple(failed) == CHECKS
    return [reason for reason, failing in failed.items() if failing]
