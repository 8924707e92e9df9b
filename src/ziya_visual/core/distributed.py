"""Several processes that take one step together: what each takes of it, and what they add up and gather.

All draw the same step and each takes its own pictures of it. The loss of each is its share of the step's:
their gradients are summed, so that N processes take the step that one would. ``torchrun`` or ``accelerate
launch`` starts them; a process on its own is all there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

# The others wait while the first one looks for pictures that training and validation share; where a process
# dies torchrun ends them all, however patient they are.
PATIENCE = timedelta(hours=12)


def start() -> PartialState:
    """Join the processes that the launcher's environment names; on GPUs where there are any, else on CPU."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Until all are here."""
    if count() > 1:
        dist.barrier()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process does it before the others."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def share(number: int, *, rank: int, count: int) -> range:
    """Which of ``number`` things in a row are a process's.

    >>> [share(5, rank=r, count=2) for r in range(2)]
    [range(0, 3), range(3, 5)]
    """
    each, more = divmod(number, count)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


def total(number: float) -> float:
    """The sum of everybody's number, the same on all."""
    if count() == 1:
        return number
    numbers: list[Any] = [None] * count()
    dist.all_gather_object(numbers, number)
    return sum(numbers)


def everybodys(thing: Any) -> list[Any]:
    """What each process has, in order."""
    things: list[Any] = [thing]
    if count() > 1:
        things *= count()
        dist.all_gather_object(things, thing)
    return things


def gather(tensor: Tensor) -> Tensor:
    """All processes' rows one behind the other: [B, ...] -> [N, ...], with gradients.

    B may differ and be 0; other dimensions are padded with zeros to the longest.
    """
    if count() == 1:
        return tensor
    said = everybodys((tuple(tensor.shape), tensor.requires_grad))
    if any(learns for _, learns in said) and not tensor.requires_grad:
        tensor = tensor.detach().requires_grad_()  # the backward pass needs all, too
    gathered: Tensor = _Gathered.apply(tensor, [shape for shape, _ in said])
    return gathered


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
        longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        padded = tensor.new_zeros(longest)
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
        found = [torch.empty_like(padded) for _ in shapes]
        dist.all_gather(found, padded)
        ctx.shape, ctx.first = tensor.shape, sum(shape[0] for shape in shapes[: rank()])
        return torch.cat([one[: shape[0]] for one, shape in zip(found, shapes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        summed = grad.contiguous().clone()
        dist.all_reduce(summed)
        own = slice(ctx.first, ctx.first + ctx.shape[0])
        return summed[(own, *(slice(size) for size in ctx.shape[1:]))], None


def add_gradients_up(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of all gradients; a parameter that none has one of keeps none."""
    if count() == 1:
        return
    learning = list(parameters)
    reached = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.int32)
    reached = reached.to(learning[0].device)
    dist.all_reduce(reached)
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter, some in zip(learning, reached.tolist(), strict=True):
        if some:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for alike in by_dtype.values():
        whole = torch.cat([_gradient(parameter).flatten() for parameter in alike])
        dist.all_reduce(whole)
        for parameter, part in zip(alike, whole.split([p.numel() for p in alike]), strict=True):
            parameter.grad = part.view_as(parameter)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
