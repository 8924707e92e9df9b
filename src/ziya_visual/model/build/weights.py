"""Weights on disk as lazy entries: tensors known by name and shape, read only when they are written.

Reading returns views into the mapped file, so rewriting a folder of any size takes little more memory than
the largest tensor that changes.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.modeling_utils import str_to_torch_dtype

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError, ConfigError, one_line
from ziya_visual.core.files import read_json, write_json

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
SHARD_BYTES = 4 * 10**9
# Buffers that older versions of transformers saved; stock recomputes them.
NOT_WEIGHTS = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is read on demand, and its origin for error messages."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @staticmethod
    def of(tensor: Tensor, file: Path, key: str) -> Entry:
        """Wrap a tensor that is in memory already; ``file`` and ``key`` name its origin."""
        return Entry(file, key, tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def mismatch(self, actual: str, expected: str) -> CheckpointError:
        """Return an error about this tensor, for the caller to raise."""
        return CheckpointError(f"{self.file}: {self.key} is {actual}, expected {expected}")


Weights = dict[str, Entry]


def _weight_files(folder: Path) -> list[Path]:
    """List the files that hold a folder's weights, preferring safetensors to pickles."""
    for name in (SAFETENSORS, BIN):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            content = read_json(index)
            weight_map = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{index}: it has no weight_map; fetch the file again")
            files = [folder / str(file) for file in sorted(set(weight_map.values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise CheckpointError(
                    f"{folder}: {len(missing)} of {len(files)} shards not found, such as {missing[0]}; "
                    "fetch the rest"
                )
            return files
    raise CheckpointError(f"{folder}: no weights there; expected {SAFETENSORS} or {BIN}, whole or in shards")


def open_weights(folder: Path) -> Weights:
    """List all tensors of a folder by name without reading them; omit buffers that are not weights."""
    weights: Weights = {}
    for file in _weight_files(folder):
        weights |= open_file(file)
    return {key: entry for key, entry in weights.items() if not NOT_WEIGHTS.search(key)}


def open_file(file: Path) -> Weights:
    """List the tensors of one file; see :func:`open_weights`."""
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
            f"{file}: its {size} bytes are not a complete safetensors file ({one_line(error)}); fetch it "
            "again"
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
    # Files from before 2020 are not zip archives and cannot be mapped.
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{file}: cannot be read as weights ({one_line(error)}); expected a complete pickle of tensors"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(
            f"{file}: a pickle of {type(content).__name__}, expected a dictionary of tensors by name"
        )
    return {str(key): Entry.of(tensor, file, str(key)) for key, tensor in content.items()}


def check_weights(
    weights: Weights, expected: dict[str, tuple[int, ...]], *, where: Path | str, of: str = "its config.json"
) -> None:
    """Require exactly the expected names and shapes, those of ``of``; name the first that differs."""
    for key, entry in weights.items():
        if key in expected and entry.shape != expected[key]:
            raise entry.mismatch(f"of shape {list(entry.shape)}", f"{list(expected[key])} by {of}")
    refuse_keys(where, expected.keys() - weights.keys(), weights.keys() - expected.keys(), of=of)


def refuse_keys(
    where: Path | str, missing: Iterable[str], unexpected: Iterable[str], *, of: str = "its config.json"
) -> None:
    """Raise ``CheckpointError`` if names are missing or unexpected; it names one of each."""
    problems = [
        f"{len(names)} keys {kind} (such as {names[0]})"
        for kind, names in (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
        if names
    ]
    if problems:
        raise CheckpointError(f"{where}: {', '.join(problems)}; expected exactly those of {of}")


def require_new_folder(out: Path) -> None:
    """Raise ``ConfigError`` if ``--out`` names something other than a new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: already exists; name a new folder")


def write_weights(folder: Path, weights: Weights, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write ``model.safetensors``, or shards with an index if it would exceed ``shard_bytes``."""
    split = split_state_dict_into_shards_factory(
        weights,
        get_storage_size=lambda entry: torch.Size(entry.shape).numel() * entry.dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / f"{SAFETENSORS}.index.json", index)
    with log.progress("write weights", len(split.filename_to_tensors)) as bar:
        for name, keys in split.filename_to_tensors.items():
            tensors = {key: weights[key].read().contiguous() for key in keys}
            save_file(tensors, folder / name, metadata={"format": "pt"})
            del tensors
            bar.advance()
