"""A flow network whose steps, and what is prepared for them, are recorded as CUDA graphs and replayed.

One step of a full-size flow is some hundred kernels of 10 to 100 microseconds; started one by one from Python they
leave the GPU waiting. A graph starts them together. It reads and writes fixed memory, so what a step gets is copied
into static tensors first: the state and the step's modulation always, a condition only when it is another one.

A step is recorded in parts, and each is started as soon as it is there: so the GPU works while the next one is
recorded, and to record a step takes little longer than to run it. Between two parts the GPU rests for some 25
microseconds; so the step is recorded once more, as a whole, when a few replays have given the GPU work for that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from gap3d_app.flow.sampler import built_like
from gap3d_app.nn.attention import all_tokens_equal
from gap3d_app.nn.parts import at_ends
from gap3d_app.sparse.tensor import SparseTensor

REPLAYS = 3
"""Of a step in parts, before it is recorded as a whole."""


class GraphedFlow:
    """Stands for `model` in `FlowSampler.run`: the same numbers from recorded steps.

    For every number of conditions the last form of the arguments (shapes, and the sites of a sparse state) is kept.
    The first call with a new form runs plainly, which also fills caches and compiles what is compiled; the second
    records; from then on the record is replayed, for later prompts too. Velocities are the caller's to keep. What
    `prepare` gives is good until it is called again: steps read it where it lies. Without CUDA the static tensors are
    used all the same, and the network runs on them every time.

    Args:
        model: a network with `prepare` and `velocities`; its weights must stay where they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._plain: dict[int, Any] = {}  # the form of the last plain call
        self._records: dict[int, _Record] = {}
        self.forget()

    def forget(self) -> None:
        """Let all records and their memory go."""
        self._prepared: _Record | None = None
        self._lasting: dict[int, Tensor] = {}
        self.forget_steps()

    def forget_steps(self) -> None:
        """Let the records of steps go, as after an asset whose voxels no other has."""
        self._plain.clear()
        self._records.clear()
        # All records work in the same memory: they are replayed one after the other, and results are copied out.
        # A new place every time, because the former one cannot be used again once it has lost its last record.
        self._pool = _new_pool()

    @property
    def config(self) -> Any:
        """The network's sizes."""
        return self.model.config

    @torch.no_grad()
    def prepare(self, conditions: list[Tensor], times: Tensor) -> list[list[Any]]:
        """See the network."""
        uniform = [all_tokens_equal(cond) for cond in conditions]  # asked here: a record cannot wait for an answer
        given = (conditions, times)
        form = (_form(given), uniform)
        if self._prepared is None or self._prepared.form != form:
            self.forget()  # steps read from what the former record gave
            prepare = partial(self.model.prepare, uniform=uniform)
            prepare(*given)  # fills caches
            self._prepared = _Record(prepare, given, form, _new_pool())
            steps = [{id(tensor): tensor for tensor in _tensors(step)} for step in self._prepared.result]
            self._lasting = {key: steps[0][key] for key in set(steps[0]).intersection(*steps[1:]) if len(steps) > 1}
            return self._prepared.result
        return self._prepared.replay(given, anew=True)

    @torch.no_grad()
    def velocities(self, state: Any, prepared: list[Any]) -> list[Any]:
        """See the network."""
        given = (state, prepared)
        count, form = len(prepared), _form(given)
        record = self._records.get(count)
        if record is None or record.form != form:
            if self._plain.get(count) != form:
                found = self.model.velocities(state, prepared)
                self._plain[count] = form
                return found
            # The former record goes when the new one is there, lest the pool be without an owner in between.
            self._records[count] = record = _Record(self.model.velocities, given, form, self._pool, self._lasting)
            result = record.result
        else:
            result = record.replay(given)
        # The next replay overwrites the result, and a solver may look back.
        return _rebuilt(result, (tensor.clone() for tensor in _tensors(result)))


class _Record:
    """One recorded call, with its static arguments and result.

    Args:
        call: the function.
        given: its arguments, which begin with a tensor.
        form: see `_form`.
        pool: memory that the record works in.
        lasting: tensors, by their identity, that stay where they are and are read there.

    Attributes:
        result: that of the last replay; at first of the call that was recorded.
        graphs: of its parts, later one of the whole; none without CUDA.
        parts: the graphs of the parts when there is one of the whole: kept, for the GPU may not have come to their end.
    """

    def __init__(
        self, call: Callable[..., Any], given: Any, form: Any, pool: Any, lasting: dict[int, Tensor] | None = None
    ) -> None:
        self.form, self.pool, self.replays = form, pool, 0
        lasting, tensors = lasting or {}, list(_tensors(given))
        # A clone keeps a tensor's steps, also odd ones along axes of one: at others blocks would be compiled anew.
        self.static = [tensor if id(tensor) in lasting else tensor.clone() for tensor in tensors]
        self.last = tensors
        arguments = _rebuilt(given, iter(self.static))
        self.call = lambda: call(*arguments)
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.parts: list[torch.cuda.CUDAGraph] = []
        if tensors[0].is_cuda:
            self.graphs, self.result = _captured(self.call, pool, True)
        else:
            self.result = self.call()

    def replay(self, given: Any, anew: bool = False) -> Any:
        """The result for other arguments, where the former one was; `anew` if all of them may have been changed."""
        tensors = list(_tensors(given))
        # A tensor that was copied last time and is the same object now holds the same numbers, except the
        # state's, which come first and may be changed in place.
        fresh = [
            index
            for index, tensor in enumerate(tensors)
            if tensor is not self.static[index] and (anew or index == 0 or tensor is not self.last[index])
        ]
        torch._foreach_copy_([self.static[index] for index in fresh], [tensors[index] for index in fresh])
        self.last = tensors
        self.replays += 1
        if len(self.graphs) > 1 and self.replays > REPLAYS:
            self.parts, (self.graphs, self.result) = self.graphs, _captured(self.call, self.pool, False)
            return self.result
        for graph in self.graphs:
            graph.replay()
        if not self.graphs:
            for kept, made in zip(_tensors(self.result), _tensors(self.call()), strict=True):
                kept.copy_(made)
        return self.result


def _new_pool() -> Any:
    """Memory for records; None without CUDA."""
    return torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None


@lru_cache(maxsize=8)
def _stream(device: int) -> torch.cuda.Stream:
    """The stream that steps are recorded on: one, because libraries keep memory for every stream that they see."""
    return torch.cuda.Stream(device)


def _captured(call: Any, pool: Any, parted: bool) -> tuple[list[torch.cuda.CUDAGraph], Any]:
    """Graphs of the parts of `call`, or one of it all, which have run once, and the tensors that they fill.

    They work in the memory of `pool`.

    Not through `torch.cuda.graph`, which empties the allocator's cache and waits for the device first.
    """
    outer = torch.cuda.current_stream()
    stream = _stream(outer.device_index)
    stream.wait_stream(outer)
    with torch.cuda.stream(stream):
        # A recording begins with two numbers of its own, and torch ends the process if there is no memory for them;
        # here that is an error like any other, and what is free afterwards is enough for them.
        room = [torch.empty(1, dtype=torch.int64, device=outer.device) for _ in range(2)]
        del room
        recorder = _Recorder(pool, outer)
        recorder.begin()
        try:
            with at_ends(recorder.cut) if parted else nullcontext():
                result = call()
            recorder.run()
        finally:
            recorder.end()
    outer.wait_stream(stream)
    return recorder.graphs, result


class _Recorder:
    """Records what the current stream is asked for, part by part; every part runs on `outer` once it has ended."""

    def __init__(self, pool: Any, outer: torch.cuda.Stream) -> None:
        self.pool, self.outer = pool, outer
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.part: torch.cuda.CUDAGraph | None = None

    def begin(self) -> None:
        part = torch.cuda.CUDAGraph()
        part.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        self.part = part

    def end(self) -> torch.cuda.CUDAGraph | None:
        """The part that was recorded, if one was."""
        part, self.part = self.part, None
        if part is not None:
            part.capture_end()
        return part

    def run(self) -> None:
        """End a part and run it."""
        part = self.end()
        with torch.cuda.stream(self.outer):
            part.replay()
        self.graphs.append(part)

    def cut(self) -> None:
        self.run()
        self.begin()


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
