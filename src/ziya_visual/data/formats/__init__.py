"""Readers of published dataset formats.

Each module holds one family of layouts: its files' fields, and functions that yield a record, or a reject
with its reason, for each row of a source. Start with :data:`FORMATS`, then ``rows.py``, which all readers
share. It may import ``core`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ziya_visual.data.formats import captions, dialogues, folder_csv, hub, vqa, webdataset
from ziya_visual.data.formats.rows import Imported, Parsed, Reject, Source

__all__ = ["FORMATS", "Format", "Imported", "Parsed", "Reject", "Source"]


@dataclass(frozen=True, slots=True)
class Format:
    """A reader, and the language of its texts unless another is given."""

    read: Callable[[Source], Iterator[Parsed]]
    lang: str = "en"


FORMATS: dict[str, Format] = {
    "coco": Format(captions.read_coco),
    "karpathy": Format(captions.read_karpathy),
    "flickr30k": Format(captions.read_flickr),
    "flickr8k": Format(captions.read_flickr),
    "flickr30k-cn": Format(captions.read_flickr_cn, "zh"),
    "flickr8k-cn": Format(captions.read_flickr_cn, "zh"),
    "coco-cn": Format(captions.read_coco_cn, "zh"),
    "nocaps": Format(captions.read_coco),
    "vqav2": Format(vqa.read_official),
    "okvqa": Format(vqa.read_official),
    "gqa": Format(vqa.read_gqa),
    "vizwiz": Format(vqa.read_vizwiz),
    "textvqa": Format(vqa.read_textvqa),
    "scienceqa": Format(vqa.read_scienceqa),
    "visual-genome": Format(vqa.read_visual_genome),
    "llava": Format(dialogues.read_llava),
    "sharegpt": Format(dialogues.read_llava),
    "openai": Format(dialogues.read_openai),
    "folder": Format(folder_csv.read),
    "webdataset": Format(webdataset.read),
    "hub": Format(hub.read),
    "muge": Format(captions.read_chinese_clip, "zh"),
}
