"""The processor inside this package: known to ``AutoProcessor``, and opened from checkpoints of any age."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoProcessor, AutoTokenizer, Blip2Config

from ziya_visual.core.errors import CheckpointError, one_line
from ziya_visual.core.files import read_json
from ziya_visual.data.chat.chat_format import IMAGE, ziya_chat_template
from ziya_visual.data.chat.processing_ziya_visual import ZiyaProcessor, normalise

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
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({one_line(error)})") from error


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


__all__ = ["ZiyaProcessor", "load_processor", "normalise"]

SETTINGS = "processor_config.json"


class _RegisteredConfig(Blip2Config):  # type: ignore[misc]
    """A key of ours: ``AutoProcessor`` finds processors by name among those registered for a config.

    Under ``Blip2Config`` itself our processor would take the place of stock's for all BLIP-2 checkpoints.
    """

    model_type = "ziya-visual"


AutoProcessor.register(_RegisteredConfig, ZiyaProcessor)


def load_processor(folder: Path, config: Any) -> ZiyaProcessor:
    """The processor of a checkpoint folder; one that stock wrote gets what ``config`` says.

    A tokenizer without ``<image>`` gets it, as stock processors add it while they open, and one without a
    chat template Ziya's.

    Raises:
        CheckpointError: tokenizer or settings cannot be read or do not fit the network, or see
            :class:`ZiyaProcessor`.
    """
    wanted = (config.vision_config.image_size, config.num_query_tokens)
    path = folder / SETTINGS
    ours = path.is_file() and read_json(path).get("processor_class") == ZiyaProcessor.__name__
    if ours:
        require_vocabulary(folder)
        try:
            processor = ZiyaProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: the processor cannot be read ({one_line(error)})") from error
    else:
        tokenizer = open_tokenizer(folder, config)
        add_image_token(tokenizer)
        add_chat_template(tokenizer)
        processor = ZiyaProcessor(tokenizer, image_size=wanted[0], num_query_tokens=wanted[1])
    found = (processor.image_size, processor.num_query_tokens)
    if found != wanted:
        raise CheckpointError(
            f"{path}: image size and num_query_tokens are {found}, config.json has {wanted}"
        )
    if processor.image_token_id != config.image_token_index:
        raise CheckpointError(
            f"{folder / 'config.json'}: image_token_index is {config.image_token_index}, but {IMAGE} is "
            f"{processor.image_token_id} in the tokenizer; compose the checkpoint anew with `init`"
        )
    return processor
