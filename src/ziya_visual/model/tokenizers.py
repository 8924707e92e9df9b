"""Tokenizers of a checkpoint folder: the language model's, and the Q-Former's where it has one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from ziya_visual.core.errors import CheckpointError
from ziya_visual.data.chat.chat_format import IMAGE, ziya_chat_template

QFORMER_TOKENIZER = "qformer_tokenizer"  # a subfolder, as stock InstructBlipProcessor names it
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
CHAT_KEYS = ("human_name", "assistant_name", "prompt_prefix")  # of the published Ziya layout's config.json


def open_tokenizer(folder: Path, config: Any = None) -> Any:
    """A folder's tokenizer, as fast ones are; ``config`` is the folder's where it has been read already.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    require_vocabulary(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, config=config)
    except Exception as error:  # tokenizers raises plain Exception where a file is damaged
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read ({' '.join(str(error).split())[:160]})"
        ) from error


def require_vocabulary(folder: Path) -> None:
    """Raise ``CheckpointError`` where a folder has no file that a tokenizer could be read from."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(f"{folder}: no tokenizer there; expected one of {', '.join(VOCABULARIES)}")


def open_qformer_tokenizer(folder: Path) -> Any | None:
    """The tokenizer of a checkpoint's Q-Former; None where it shares the language model's."""
    own = folder / QFORMER_TOKENIZER
    return open_tokenizer(own) if own.is_dir() else None


def add_image_token(tokenizer: Any) -> None:
    """Let ``<image>`` be a special token, if it is none yet."""
    token = AddedToken(IMAGE, normalized=False, special=True)
    tokenizer.add_tokens([token], special_tokens=True)


def add_chat_template(tokenizer: Any, names: dict[str, str] | None = None) -> None:
    """Give a tokenizer without a chat template Ziya's.

    Args:
        tokenizer: changed in place; a template of its own stays.
        names: what the published Ziya layout says in its config.json under :data:`CHAT_KEYS`.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = ziya_chat_template(**names or {})


def same_vocabulary(one: Any, other: Any) -> bool:
    """Whether two tokenizers call every token by the same number."""
    return bool(one.get_vocab() == other.get_vocab())
