"""Weights on disk as plans: tensors known by name and shape, each read only when it is written.

Reading gives views into the mapped file, so that a folder of any size is rewritten with little more memory
than the largest tensor that changes.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.modeling_utils import str_to_torch_dtype

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError, one_line
from ziya_visual.core.files import read_json, write_json

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
SHARD_BYTES = 4 * 10**9
# Buffers that older versions of transformers saved; stock makes them anew.
NOT_WEIGHTS = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is read when it is needed, and where it stands, for errors about it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @staticmethod
    def of(tensor: Tensor, file: Path, key: str) -> Entry:
        """A tensor that is in memory already; ``file`` and ``key`` say where it comes from."""
        return Entry(file, key, tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def refuse(self, found: str, expected: str) -> CheckpointError:
        """An error about this tensor, to be raised."""
        return CheckpointError(f"{self.file}: {self.key} is {found}, expected {expected}")


Weights = dict[str, Entry]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors before pickles.

    Raises:
        CheckpointError: there are none, or an index names files that are not there.
    """
    for name in (SAFETENSORS, BIN):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            table = read_json(index)
            mapped = table.get("weight_map") if isinstance(table, dict) else None
            if not isinstance(mapped, dict) or not mapped:
                raise CheckpointError(f"{index}: no weight_map in it; fetch the file again")
            files = [folder / str(file) for file in sorted(set(mapped.values()))]
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                raise CheckpointError(
                    f"{folder}: {len(absent)} of {len(files)} shards not found there, such as {absent[0]}; "
                    "fetch the rest"
                )
            return files
    raise CheckpointError(f"{folder}: no weights there; expected {SAFETENSORS} or {BIN}, whole or in shards")


def open_weights(folder: Path) -> Weights:
    """All tensors of a folder by name, none read yet; buffers that are not weights are left out.

    Raises:
        CheckpointError: a file is missing or damaged, or is a pickle of something else.
    """
    found: Weights = {}
    for file in weight_files(folder):
        found |= open_file(file)
    return {key: entry for key, entry in found.items() if not NOT_WEIGHTS.search(key)}


def open_file(file: Path) -> Weights:
    """The tensors of one file; see :func:`open_weights`."""
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file)


def _open_safetensors(file: Path) -> Weights:
    def read(key: str) -> Tensor:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(key)

    try:
        with safe_open(file, framework="pt") as opened:
            headers = {key: opened.get_slice(key) for key in opened.keys()}
        dtypes = {key: str_to_torch_dtype[header.get_dtype()] for key, header in headers.items()}
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size if file.is_file() else 0
        raise CheckpointError(
            f"{file}: {size} bytes that are no whole safetensors file ({one_line(error)}); fetch it again"
        ) from error
    except KeyError as error:
        raise CheckpointError(
            f"{file}: its weights are of dtype {error}, which transformers cannot load"
        ) from error
    return {
        key: Entry(file, key, tuple(header.get_shape()), dtypes[key], partial(read, key))
        for key, header in headers.items()
    }


def _open_pickle(file: Path) -> Weights:
    # Files from before 2020 are no zip archives and cannot be mapped.
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{file}: cannot be read as weights ({one_line(error)}); expected a whole pickle of tensors"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise CheckpointError(
            f"{file}: a pickle of {type(held).__name__}, expected a dictionary of tensors by name"
        )
    return {str(key): Entry.of(tensor, file, str(key)) for key, tensor in held.items()}


def check(found: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]], *, where: Path | str) -> None:
    """Refuse weights that are not exactly the expected ones.

    Raises:
        CheckpointError: a tensor is missing, is too many, or has another shape; the first is named.
    """
    for key, entry in found.items():
        if key in expected and entry.shape != expected[key]:
            raise entry.refuse(f"of shape {list(entry.shape)}", f"{list(expected[key])} by the configuration")
    refuse_keys(where, expected.keys() - found.keys(), found.keys() - expected.keys())


def refuse_keys(
    where: Path | str, missing: Iterable[str], unexpected: Iterable[str], *, of: str = "its config.json"
) -> None:
    """Raise ``CheckpointError`` where names are missing or too many; it names one of each."""
    said = [
        f"{len(names)} keys {what} (such as {names[0]})"
        for what, names in (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
        if names
    ]
    if said:
        raise CheckpointError(f"{where}: {', '.join(said)}; expected those of {of} and no others")


def write_weights(folder: Path, weights: Weights, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write ``model.safetensors``, or shards and an index where it would be larger than ``shard_bytes``."""
    shards = _shards(weights, shard_bytes)
    names = [SAFETENSORS]
    if len(shards) > 1:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        write_json(
            folder / f"{SAFETENSORS}.index.json",
            {
                "metadata": {"total_size": sum(_bytes(entry) for entry in weights.values())},
                "weight_map": {
                    key: name for name, keys in zip(names, shards, strict=True) for key in sorted(keys)
                },
            },
        )
    with log.progress("write weights", len(shards)) as bar:
        for name, keys in zip(names, shards, strict=True):
            tensors = {key: weights[key].read().contiguous() for key in keys}
            save_file(tensors, folder / name, metadata={"format": "pt"})
            del tensors
            bar.advance()


def _shards(weights: Weights, limit: int) -> list[list[str]]:
    """Names in their order, as many a shard as fit; one that is larger alone has a shard of its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, entry in weights.items():
        if shards[-1] and size + _bytes(entry) > limit:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += _bytes(entry)
    return shards


def _bytes(entry: Entry) -> int:
    return torch.Size(entry.shape).numel() * entry.dtype.itemsize
