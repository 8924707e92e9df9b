"""Process groups: how items are divided over ranks, and that a process on its own is rank 0 of 1."""

import pytest
import torch

from ziya_visual.core import distributed


@pytest.mark.parametrize(("length", "world_size"), [(6, 2), (7, 3), (2, 3), (0, 2)])
def test_shards_are_even_and_cover_all_items(length: int, world_size: int) -> None:
    shards = [distributed.shard(length, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [position for shard in shards for position in shard] == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_process_on_its_own_is_rank_0_of_1() -> None:
    calls: list[list[str]] = []

    def work(items: list[str]) -> list[int]:
        calls.append(list(items))
        return [len(item) for item in items]

    with distributed.process_group() as state:
        assert (state.num_processes, state.is_main_process) == (1, True)
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.map_over_ranks(["a", "bc"], work) == [1, 2]
        assert distributed.map_over_ranks([], work) == []
    assert calls == [["a", "bc"]], "no items, no work"
    assert distributed.gather_objects({"a": 1}) == [{"a": 1}]
    assert distributed.broadcast("a") == "a"
    assert distributed.sum_over_ranks(3) == 3
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather_rows(rows) is rows
