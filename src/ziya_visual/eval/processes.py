"""Work shared over the processes that ``torchrun`` starts; without it all is done here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")


class Processes:
    """The processes of this run. They need to share neither memory nor a disk.

    Attributes:
        count: how many there are.
        first: whether this is the one that writes files.
        device: this one's.
    """

    def __init__(self) -> None:
        self.count, self.first, self._index = 1, True, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=not torch.cuda.is_available())
            self.count, self.first, self._index = (
                state.num_processes,
                state.is_main_process,
                state.process_index,
            )
            self.device = state.device

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

    def share(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Found]]) -> list[Found]:
        """``work`` of every item, in their order; each is done by one process, and all get everything."""
        if self.count == 1:
            return list(work(items)) if items else []
        from accelerate.utils import gather_object

        places = range(self._index, len(items), self.count)
        done = work([items[place] for place in places]) if places else []
        found = dict(gather_object(list(zip(places, done, strict=True))))
        return [found[place] for place in range(len(items))]

    def same(self, value: Found) -> Found:
        """The first process's value."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        received: list[Found] = broadcast_object_list([value])
        return received[0]
