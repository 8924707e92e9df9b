"""Writers of files as other tools leave them, and pictures that make every kind of trouble."""

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

Write = Callable[[Path, list[Any]], Path]
JPEG = io.BytesIO()
Image.new("RGB", (12, 8), (200, 30, 40)).save(JPEG, "JPEG")
BASE64 = base64.b64encode(JPEG.getvalue()).decode()


def pictures(folder: Path) -> None:
    """Pictures under the names of all formats; and what is none, leads out, or never ends."""
    inside = (
        "a.jpg",
        "COCO_val2014_000000000042.jpg",
        "train2014/COCO_train2014_000000000007.jpg",
        "val2014/a.jpg",
        "VG_100K/1.jpg",
        "VG_100K_2/2.jpg",
        "train/7/image.png",
        "1000092795.jpg",
    )
    for name in inside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG.getvalue())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder.parent / "outside.jpg").write_bytes(JPEG.getvalue())
    (folder / "out.jpg").symlink_to(folder.parent / "outside.jpg")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    os.mkfifo(folder / "fifo.jpg")


BAD_NAMES = (
    "absent.jpg",
    "broken.jpg",
    "out.jpg",
    "self.jpg",
    "fifo.jpg",
    "../outside.jpg",
    "/etc/hostname",
    "VG_100K",
    "http://127.0.0.1/a.jpg",
    "a\0.jpg",
    "n" * 300 + ".jpg",
    "n" * 5000,
)


@dataclass(frozen=True)
class Format:
    """``write(folder, rows)`` gives the path to import; ``rows`` are the smallest things to be records."""

    name: str
    rows: list[Any]
    write: Write
    expected: dict[str, Any]  # of the first record
    options: Callable[[Path], dict[str, Any]] = field(default=lambda folder: {})


def whole(name: str, wrap: Callable[[list[Any]], Any] = lambda rows: rows) -> Write:
    def write(folder: Path, rows: list[Any]) -> Path:
        (folder / name).write_text(json.dumps(wrap(rows)), encoding="utf-8")
        return folder / name

    return write


def by_number(rows: list[Any]) -> dict[str, Any]:
    return {str(number + 7): row for number, row in enumerate(rows)}


def jsonl(name: str) -> Write:
    def write(folder: Path, rows: list[Any]) -> Path:
        (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        return folder / name

    return write


def lines(name: str, **beside: str) -> Write:
    def write(folder: Path, rows: list[Any]) -> Path:
        (folder / name).write_bytes(b"\n".join(r if isinstance(r, bytes) else r.encode() for r in rows))
        return folder / name

    return write


def official(prefix: str, annotation: dict[str, Any]) -> Write:
    """Questions; every one that has a readable id is annotated."""

    def write(folder: Path, rows: list[Any]) -> Path:
        ids = [row["question_id"] for row in rows if isinstance(row, dict) and "question_id" in row]
        (folder / "annotations.json").write_text(
            json.dumps({"annotations": [{**annotation, "question_id": one} for one in ids] + [None, {}]})
        )
        top = {"info": {}, "task_type": "Open-Ended", "data_subtype": "val2014", "questions": rows}
        (folder / f"{prefix}_questions.json").write_text(json.dumps(top))
        return folder / f"{prefix}_questions.json"

    return write


def muge(folder: Path, rows: list[Any]) -> Path:
    (folder / "train_imgs.tsv").write_text(f"5\t{BASE64}\n6\tnot base64!\n7\t{BASE64[:40]}\n")
    jsonl("train_texts.jsonl")(folder, rows)
    return folder


def tar(folder: Path, rows: list[Any]) -> Path:
    """A sample is file ending -> content; a link where the content is None."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number, row in enumerate(rows):
            files = row if isinstance(row, dict) else {"cls": str(row).encode("utf-8", "replace")}
            for ending, value in files.items() or {"cls": b""}.items():
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                if value is None:
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
                    tar.addfile(tarfile.TarInfo(f"{number:06d}.__link__"))
                    tar.addfile(member)
                    continue
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "shard.tar"


def parquet(folder: Path, rows: list[Any]) -> Path:
    """Text columns alone, as any tool may have written them; what is no text is None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("key", "picture", "said")

    def value(row: Any, name: str) -> str | None:
        found = row.get(name) if isinstance(row, dict) else None
        return found.encode("utf-8", "ignore").decode() if isinstance(found, str) else None

    table = pa.table({name: pa.array([value(row, name) for row in rows], pa.string()) for name in names})
    pq.write_table(table, folder / "theirs.parquet")
    return folder / "theirs.parquet"


def table(folder: Path, rows: list[Any]) -> Path:
    lines = [
        ",".join(map(str, row)) if isinstance(row, list) and row else f"x,,{number}"
        for number, row in enumerate(rows)
    ]
    text = "\n".join(["image,lang,text", "a.jpg,en,always one", *lines])
    (folder / "captions.csv").write_bytes(text.encode("utf-8", "replace"))
    return folder
