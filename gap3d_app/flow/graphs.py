"""A flow network whose steps are recorded as CUDA graphs and replayed.

One step of a full-size flow is some hundred kernels of 10 to 100 microseconds; started one by one from Python they
leave the GPU waiting. A graph starts them together. It reads and writes fixed memory, so what a step gets is copied
into static tensors first: the state and the step's modulation always, a condition only when it is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gap3d_app.flow.sampler import built_like
from gap3d_app.sparse.tensor import SparseTensor


class GraphedFlow:
    """Stands for `model` in `FlowSampler.run`: the same numbers from recorded steps.

    For every number of conditions the last form of the arguments (shapes, and the sites of a sparse state) is kept.
    The first call with a new form runs plainly, which also fills caches and compiles what is compiled; the second
    records; from then on the record is replayed, for later prompts too. Velocities are the caller's to keep.
    Without CUDA the static tensors are used all the same, and the network runs on them every time.

    Args:
        model: a network with `prepare` and `velocities`; its weights must stay where they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._seen: dict[int, Any] = {}
        self._records: dict[int, _Record] = {}
        self.forget()

    def forget(self) -> None:
        """Let the records and their memory go."""
        self._seen.clear()
        self._records.clear()
        # All records work in the same memory: they are replayed one after the other, and results are copied out.
        # A new place every time, because the former one cannot be used again once it has lost its last record.
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    @property
    def config(self) -> Any:
        """The network's sizes."""
        return self.model.config

    def prepare(self, conditions: list[Any], times: Tensor) -> list[list[Any]]:
        """See the network."""
        return self.model.prepare(conditions, times)

    @torch.no_grad()
    def velocities(self, state: Any, prepared: list[Any]) -> list[Any]:
        """See the network."""
        count, form = len(prepared), _form((state, prepared))
        record = self._records.get(count)
        if record is None or record.form != form:
            if self._seen.get(count) != form:
                self._seen[count] = form
                return self.model.velocities(state, prepared)
            # The former record goes when the new one is there, lest the pool be without an owner in between.
            self._records[count] = record = _Record(self.model, state, prepared, form, self._pool)
        return record.replay(state, prepared)


class _Record:
    """One recorded call of `model.velocities`, with its static arguments and results."""

    def __init__(self, model: Any, state: Any, prepared: list[Any], form: Any, pool: Any) -> None:
        self.form = form
        given = list(_tensors((state, prepared)))
        self.static = [_copied(tensor) for tensor in given]
        self.last: list[Tensor | None] = [None] * len(given)
        state, prepared = _rebuilt((state, prepared), iter(self.static))
        self.call = lambda: model.velocities(state, prepared)
        self.graph = None
        if given[0].is_cuda:
            self.graph, self.result = _captured(self.call, pool)

    def replay(self, state: Any, prepared: list[Any]) -> list[Any]:
        given = list(_tensors((state, prepared)))
        # A tensor that was copied last time and is the same object now holds the same numbers, except the
        # state's, which come first and may be changed in place.
        fresh = [index for index, tensor in enumerate(given) if index == 0 or tensor is not self.last[index]]
        torch._foreach_copy_([self.static[index] for index in fresh], [given[index] for index in fresh])
        self.last = given
        if self.graph is None:
            return self.call()
        self.graph.replay()
        # The next replay overwrites the result, and a solver may look back.
        return _rebuilt(self.result, (tensor.clone() for tensor in _tensors(self.result)))


def _copied(tensor: Tensor) -> Tensor:
    """A contiguous copy, which keeps odd steps along axes of one: at other steps blocks would be compiled anew."""
    if not tensor.is_contiguous():
        return tensor.clone(memory_format=torch.contiguous_format)
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


@lru_cache(maxsize=8)
def _stream(device: int) -> torch.cuda.Stream:
    """The stream that steps are recorded on: one, because libraries keep memory for every stream that they see."""
    return torch.cuda.Stream(device)


def _captured(call: Any, pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `call` and the tensors that a replay fills; `pool` is the memory that it works in.

    Not through `torch.cuda.graph`, which empties the allocator's cache and waits for the device first.
    """
    graph, outer = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    stream = _stream(outer.device_index)
    stream.wait_stream(outer)
    with torch.cuda.stream(stream):
        # A recording begins with two numbers of its own, and torch ends the process if there is no memory for them;
        # here that is an error like any other, and what is free afterwards is enough for them.
        room = [torch.empty(1, dtype=torch.int64, device=outer.device) for _ in range(2)]
        del room
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = call()
        finally:
            graph.capture_end()
    outer.wait_stream(stream)
    return graph, result


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of tuples, lists, dicts and sparse tensors, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, SparseTensor):
        yield tree.feats
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from _tensors(part)
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _tensors(part)


def _rebuilt(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure around other tensors, in the order of `_tensors`."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if isinstance(tree, SparseTensor):
        return tree.replace(next(tensors))
    if isinstance(tree, dict):
        return {key: _rebuilt(part, tensors) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return built_like(tree, [_rebuilt(part, tensors) for part in tree])
    return tree


def _form(tree: Any) -> Any:
    """What two calls must have in common to share a record."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype, tree.device
    if isinstance(tree, SparseTensor):
        return tree.sites, _form(tree.feats)
    if isinstance(tree, dict):
        return {key: _form(part) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_form(part) for part in tree)
    return tree
