"""``data import``: other people's files become a dataset, what cannot be read a report of reasons."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core import log
from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import atomic_dir, write_json, write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.dataset import Form, write_dataset
from ziya_visual.data.formats import (
    Found,
    Reject,
    Source,
    coco_captions,
    coco_cn,
    flickr,
    flickr_cn,
    folder_csv,
    gqa,
    hub,
    karpathy,
    llava,
    muge,
    openai_chat,
    scienceqa,
    textvqa,
    visual_genome,
    vizwiz,
    vqa_official,
    webdataset,
)
from ziya_visual.data.tools.manifest import manifest, refuse_foreign


@dataclass(frozen=True, slots=True)
class Format:
    """A format that can be read, and the language that its texts are in if nothing else is said."""

    read: Callable[[Source], Iterator[Found]]
    lang: str = "en"


FORMATS: dict[str, Format] = {
    "coco": Format(coco_captions.read),
    "karpathy": Format(karpathy.read),
    "flickr30k": Format(flickr.read),
    "flickr8k": Format(flickr.read),
    "flickr30k-cn": Format(flickr_cn.read, "zh"),
    "flickr8k-cn": Format(flickr_cn.read, "zh"),
    "coco-cn": Format(coco_cn.read, "zh"),
    "nocaps": Format(coco_captions.read),
    "vqav2": Format(vqa_official.read),
    "okvqa": Format(vqa_official.read),
    "gqa": Format(gqa.read),
    "vizwiz": Format(vizwiz.read),
    "textvqa": Format(textvqa.read),
    "scienceqa": Format(scienceqa.read),
    "visual-genome": Format(visual_genome.read),
    "llava": Format(llava.read),
    "sharegpt": Format(llava.read),
    "openai": Format(openai_chat.read),
    "folder": Format(folder_csv.read),
    "webdataset": Format(webdataset.read),
    "hub": Format(hub.read),
    "muge": Format(muge.read, "zh"),
}


def rows_of(
    name: str,
    path: Path,
    *,
    lang: str | None = None,
    limit: int | None = None,
    **where: Any,
) -> Iterator[Found]:
    """The rows of a file or folder of the format ``name``, at most ``limit`` of them.

    Args:
        where: ``images``, ``annotations``, ``split``, ``columns``, see :class:`Source`.

    Raises:
        ConfigError: there is no such format.
        DataError: nothing of the file can be read.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}{nearest(name, FORMATS)}")
    kind = FORMATS[name]
    return itertools.islice(kind.read(Source(name=name, path=path, lang=lang or kind.lang, **where)), limit)


def import_dataset(
    name: str, path: Path, *, out: Path, form: Form = "parquet", **options: Any
) -> dict[str, Any]:
    """Write the folder ``out``: ``records*``, ``rejects.jsonl`` and ``manifest.json``.

    Args:
        name: a key of :data:`FORMATS`.
        path: what the format's row in ``docs/data.md`` says.
        out: a new folder, or an earlier import, which is replaced when all is read.
        form: Parquet and tars hold the pictures, JSONL their paths.
        options: of :func:`rows_of`.

    Returns:
        The manifest.

    Raises:
        ConfigError: there is no such format, or ``out`` holds something else.
        DataError: nothing of the file can be used.
    """
    refuse_foreign(out, path)
    rejects: list[Reject] = []
    counts: Counter[str] = Counter()
    with atomic_dir(out) as aside, log.progress(f"import {name}", options.get("limit")) as bar:

        def usable() -> Iterator[Example]:
            for found in rows_of(name, path, **options):
                bar.advance()
                if isinstance(found, Reject):
                    rejects.append(found)
                    continue
                counts[f"{found.task}/{found.lang}"] += 1
                yield found

        records = write_dataset(aside, usable(), form)
        if not records:
            first = f"; the first: {rejects[0].where}: {rejects[0].reason}" if rejects else ""
            raise DataError(f"{path}: none of {len(rejects)} rows can be used{first}")
        write_jsonl(aside / "rejects.jsonl", map(asdict, rejects))
        made = manifest(
            aside,
            records=records,
            rejects=len(rejects),
            by_task_and_lang=counts,
            made_by=f"data import {name} {path}",
            inputs=[path, options.get("annotations")],
        )
        write_json(aside / "manifest.json", made)
    return made
