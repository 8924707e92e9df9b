"""Image features for a stage, read from disk wherever the encoder is frozen.

A frozen encoder (the ViT, or ViT and Q-Former) runs once on each image for all steps, stages and runs. A
cache folder belongs to one encoder at one image size and precision. Its shards (safetensors) name their
images by content, so runs may share it, and a killed run resumes where it was. Images beyond the limit of the
cache are encoded whenever they are needed.

Legend: N images, B of them in a step, S side in pixels, P patches + 1, Dv ViT width, Q queries, Dq Q-Former
width; L vectors of width D are the features of an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ziya_visual.core import distributed, log
from ziya_visual.core.files import atomic_path, hash_bytes, hash_json
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.objectives import GetFeatures, ImageFeatures, autocast

SHARD_SIZE = 256  # images that are encoded together and stored in one file
Encode = Callable[[np.ndarray], Tensor]  # image numbers int64[B] -> float[B, L, D]


@dataclass
class FeatureExtractor:
    """The network's features of one array of images; nothing is computed before they are needed."""

    model: ZiyaVisualModel  # its weights may change, but those of the ViT only without ``vision_frozen``
    processor: ZiyaProcessor
    pixels: np.ndarray  # uint8[N, S, S, 3]
    precision: str
    cache_folder: Path  # of all caches
    cache_gigabytes: float  # the limit of each cache
    vision_frozen: bool  # whether no stage of the run trains the ViT

    def __post_init__(self) -> None:
        """Select the precision in which later layers compute."""
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._cached_embeds: FeatureCache | None = None

    def encode(self, images: np.ndarray) -> Tensor:
        """Run the ViT on images by their numbers: float[B, P, Dv]."""
        with autocast(self.precision, self.model.device):
            pixels = self.processor.normalise(self.pixels[images]).to(self.model.device)
            return self.model.encode_images(pixels).to(self._dtype)

    def for_stage(self, *, queries_only: bool) -> GetFeatures:
        """Fill the caches that a stage can use and return the function that gets its features.

        With ``queries_only`` the stage needs nothing but the queries of a frozen Q-Former.
        """
        if queries_only:
            cached_queries = self._fill_cache(self._encode_queries, queries=True)
            return lambda images: ImageFeatures(None, cached_queries(images).to(self.model.device))
        if self.vision_frozen and self._cached_embeds is None:
            self._cached_embeds = self._fill_cache(self.encode)

        def get_features(images: np.ndarray) -> ImageFeatures:
            embeds = (self._cached_embeds or self.encode)(images).to(self.model.device)
            return ImageFeatures(embeds, self.model.query_images(embeds))

        return get_features

    def _encode_queries(self, images: np.ndarray) -> Tensor:
        """Run ViT and Q-Former without gradients: float[B, Q, Dq]."""
        with torch.no_grad(), autocast(self.precision, self.model.device):
            return self.model.query_images((self._cached_embeds or self.encode)(images)).to(self._dtype)

    def _fill_cache(self, encode: Encode, *, queries: bool = False) -> FeatureCache:
        """Return the cache of a frozen encoder with all images in it."""
        modules = [self.model.vision_model, self.model.qformer] if queries else [self.model.vision_model]
        tensors = [self.model.query_tokens] if queries else []
        key = encoder_key(modules, tensors, image_size=self.processor.image_size, dtype=self._dtype)
        cache = FeatureCache(
            self.cache_folder / key[:24], self.pixels, encode, gigabytes=self.cache_gigabytes
        )
        cache.fill(rank=distributed.rank(), world_size=distributed.world_size())
        return cache


def encoder_key(
    modules: Sequence[nn.Module], tensors: Iterable[Tensor] = (), *, image_size: int, dtype: torch.dtype
) -> str:
    """Hash what features depend on: the encoder's weights, the image size and the precision."""
    named = [item for module in modules for item in module.state_dict().items()]
    named += [("", tensor) for tensor in tensors]
    arrays = [(name, tensor.detach().cpu().contiguous().flatten()) for name, tensor in named]
    weights = [(name, hash_bytes(array.view(torch.uint8).numpy().tobytes())) for name, array in arrays]
    return hash_json({"weights": weights, "side": image_size, "dtype": str(dtype)})


class FeatureCache:
    """Features float[B, L, D] of images by their numbers, read from disk where they are stored."""

    def __init__(self, folder: Path, pixels: np.ndarray, encode: Encode, *, gigabytes: float) -> None:
        """Open the shards in the folder of one :func:`encoder_key`; :meth:`fill` adds to them.

        ``pixels`` are uint8[N, S, S, 3], and ``gigabytes`` is the limit of the folder.
        """
        self._folder, self._encode, self._limit_bytes = folder, encode, int(gigabytes * 1e9)
        self._hashes = [hash_bytes(image.tobytes()) for image in pixels]
        self._open_shards()

    def fill(self, *, rank: int = 0, world_size: int = 1) -> None:
        """Encode and store all images that are missing, up to the limit.

        Each rank encodes its share of the images, whatever others have stored by now, and has the results of
        all ranks in the end.
        """
        numbers = {name: number for number, name in enumerate(self._hashes)}
        own = list(numbers.items())[rank::world_size]
        missing = np.asarray([number for name, number in own if name not in self._places], np.int64)
        limit = self._bytes + (self._limit_bytes - self._bytes) // world_size
        with log.progress("encode pictures", len(missing)) as bar:
            for start in range(0, len(missing), SHARD_SIZE):
                images = missing[start : start + SHARD_SIZE]
                features = self._encode(images)
                if self._bytes + features.nbytes > limit:
                    log.logger.warning(
                        "%.1f GB do not hold the features of %d of %d pictures; they are encoded each time",
                        self._limit_bytes / 1e9, (len(missing) - start) * world_size, len(set(self._hashes)),
                    )  # fmt: skip
                    break
                self._open_shard(self._write_shard([self._hashes[number] for number in images], features))
                bar.advance(len(images))
        if world_size > 1:
            distributed.barrier()
            self._open_shards()

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return the features of images by their numbers, float[B, L, D]."""
        places = [self._places.get(self._hashes[number]) for number in images]
        missing = np.asarray([row for row, place in enumerate(places) if place is None], np.int64)
        if len(missing) == len(images):
            return self._encode(images)
        stored = [place[0].get_slice("states")[place[1]] for place in places if place is not None]
        features = stored[0].new_empty(len(images), *stored[0].shape)
        features[np.setdiff1d(np.arange(len(images)), missing)] = torch.stack(stored)
        if len(missing):
            features[missing] = self._encode(images[missing])
        return features

    def _open_shards(self) -> None:
        """Open all shards in the folder, whoever wrote them, but none that is still being written."""
        self._places: dict[str, tuple[Any, int]] = {}  # image hash -> shard, row
        self._bytes = 0
        for path in sorted(self._folder.glob("[!.]*.safetensors")):
            self._open_shard(path)

    def _open_shard(self, path: Path) -> None:
        try:
            shard = safe_open(path, "pt")
            names = json.loads(shard.metadata()["pictures"])
        except (SafetensorError, KeyError, TypeError) as error:
            log.logger.warning("%s is damaged and will be written again (%s)", path, error)
            return
        self._bytes += path.stat().st_size
        self._places |= {name: (shard, row) for row, name in enumerate(names)}

    def _write_shard(self, names: Sequence[str], features: Tensor) -> Path:
        path = self._folder / f"{hash_json(names)[:24]}.safetensors"
        with atomic_path(path) as temporary:
            save_file({"states": features.contiguous()}, temporary, metadata={"pictures": json.dumps(names)})
        return path
