"""Process groups: several processes that ``torchrun`` or ``accelerate launch`` started work as one.

Training uses them so that N ranks take the step that one would: all ranks draw the same step, each takes its
own images of it, and the gradients are summed. Evaluation uses them to answer questions in parallel.
A process that was started alone is rank 0 of 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

# Other ranks wait while rank 0 looks for images that training and validation share. torchrun ends every rank
# when one of them dies, so a long timeout never leaves a run hanging.
TIMEOUT = timedelta(hours=12)
Item = TypeVar("Item")
Result = TypeVar("Result")


def start() -> PartialState:
    """Join the process group that the launcher's environment names, on GPUs if there are any, else on CPU."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


@contextlib.contextmanager
def process_group() -> Iterator[PartialState]:
    """Join the process group as :func:`start` does, and leave it at the end of the block."""
    state = start()
    try:
        yield state
    finally:
        state.destroy_process_group()


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait until every rank has come here."""
    start().wait_for_everyone()


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Let rank 0 run the block before the others."""
    with start().main_process_first():
        yield


def shard(length: int, *, rank: int, world_size: int) -> range:
    """Return the positions of ``length`` items that belong to a rank: consecutive, sizes differ by at most 1.

    >>> [shard(5, rank=r, world_size=2) for r in range(2)]
    [range(0, 3), range(3, 5)]
    """
    each, more = divmod(length, world_size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


def gather_objects(value: Result) -> list[Result]:
    """Return the values of all ranks, in the order of the ranks."""
    values: list[Result] = [value]
    return values if world_size() == 1 else gather_object(values)


def sum_over_ranks(number: float) -> float:
    """Return the sum of all ranks' numbers."""
    return number if world_size() == 1 else sum(gather_objects(number))


def broadcast(value: Result) -> Result:
    """Return rank 0's value."""
    values: list[Result] = [value] if world_size() == 1 else broadcast_object_list([value])
    return values[0]


def map_over_ranks(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
    """Return ``work`` of all items, in their order: each rank does some of them, and every rank gets all."""
    positions = range(rank(), len(items), world_size())
    results = work([items[position] for position in positions]) if positions else []
    gathered = dict(
        pair for some in gather_objects(list(zip(positions, results, strict=True))) for pair in some
    )
    return [gathered[position] for position in range(len(items))]


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, with gradients: [B, ...] -> [N, ...].

    B may differ between ranks and be 0; other dimensions are padded with zeros to the longest.
    """
    if world_size() == 1:
        return tensor
    shapes = gather_objects((tuple(tensor.shape), tensor.requires_grad))
    if any(requires_grad for _, requires_grad in shapes) and not tensor.requires_grad:
        tensor = tensor.detach().requires_grad_()  # every rank has to take part in the backward pass
    rows: Tensor = _GatherRows.apply(tensor, [shape for shape, _ in shapes])
    return rows


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
        longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        padded = tensor.new_zeros(longest)
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
        gathered = [torch.empty_like(padded) for _ in shapes]
        dist.all_gather(gathered, padded)
        ctx.shape, ctx.first = tensor.shape, sum(shape[0] for shape in shapes[: rank()])
        return torch.cat([rows[: shape[0]] for rows, shape in zip(gathered, shapes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        summed = grad.contiguous().clone()
        dist.all_reduce(summed)
        own_rows = slice(ctx.first, ctx.first + ctx.shape[0])
        return summed[(own_rows, *(slice(size) for size in ctx.shape[1:]))], None


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the sum of all gradients; a parameter without a gradient on any rank keeps none."""
    if world_size() == 1:
        return
    trainable = list(parameters)
    ranks_with_gradient = torch.tensor([p.grad is not None for p in trainable], dtype=torch.int32)
    ranks_with_gradient = ranks_with_gradient.to(trainable[0].device)
    dist.all_reduce(ranks_with_gradient)
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter, count in zip(trainable, ranks_with_gradient.tolist(), strict=True):
        if count:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for group in by_dtype.values():
        flat = torch.cat([_gradient(parameter).flatten() for parameter in group])
        dist.all_reduce(flat)
        for parameter, grad in zip(group, flat.split([p.numel() for p in group]), strict=True):
            parameter.grad = grad.view_as(parameter)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
