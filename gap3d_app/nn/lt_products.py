"""Products with a bias whose algorithm of cuBLASLt's is chosen by measurement; inference only.

torch takes what cuBLASLt suggests first. On an H200 another of its suggestions is 6 to 20 % faster for two products of
the TRELLIS flows: queries, keys and values, and the perceptron's first, with the GELU that cuBLASLt applies to float32
sums. The library is the one that torch itself has loaded, called through ctypes; what it must equal is torch's product.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from functools import cache, partial
from threading import Lock
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.nn.device_clock import milliseconds

logger = logging.getLogger(__name__)

SUGGESTIONS = 16
"""Asked for, once with and once without a workspace."""

WORKSPACE = 32 << 20
"""Bytes that an algorithm may work in; torch allows as much on Hopper GPUs."""

FASTER = 0.98
"""Share of the first suggestion's time below which another one is taken."""

CLASS_ROWS, LAST_CLASS = 512, 32
"""Rows of a class, and the class of all larger numbers. How full an algorithm's last wave of tiles is may decide; a
wave of either product has a thousand rows or more, and of many waves one counts little."""

MOST_PREPARED = 256
"""Products kept ready; a structured latent has another number of rows for every asset."""

ALIGNMENT = 256
"""Bytes at whose multiples tensors begin, by cuBLASLt's default; an algorithm may rely on it."""

# Names of cublasLt.h and library_types.h.
_COMPUTE_32F, _REAL_32F, _TYPES = 68, 0, {torch.float16: 2, torch.bfloat16: 14}
_TRANSA, _EPILOGUE, _BIAS_POINTER, _MAX_WORKSPACE_BYTES = 3, 7, 8, 1
_OP_T, _EPILOGUE_BIAS, _EPILOGUE_GELU_BIAS = 1, 4, 36

_ARGUMENTS = {
    "Create": (c_void_p,),
    "MatmulDescCreate": (c_void_p, c_int, c_int),
    "MatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "MatmulDescDestroy": (c_void_p,),
    "MatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "MatrixLayoutDestroy": (c_void_p,),
    "MatmulPreferenceCreate": (c_void_p,),
    "MatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "MatmulPreferenceDestroy": (c_void_p,),
    "MatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, c_void_p, c_void_p),
    "MatmulAlgoCheck": (c_void_p,) * 8,
    "Matmul": (*[c_void_p] * 14, c_size_t, c_void_p),
}

_ONE, _ZERO = c_float(1), c_float(0)


class _Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t."""

    _fields_ = [("data", c_uint64 * 8)]


class _Suggestion(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, the bytes that it works in, and 0 as its state if it runs."""

    _fields_ = [
        ("algorithm", _Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


def applies(layer: nn.Linear, x: Tensor) -> bool:
    """Whether cuBLASLt can add the bias and apply a GELU: on CUDA in one half precision, without gradients."""
    half = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and layer.weight.dtype == x.dtype
    return half and not torch.is_grad_enabled() and layer.bias is not None and layer.bias.dtype == x.dtype


def lt_linear(layer: nn.Linear, x: Tensor, gelu: bool = False) -> Tensor:
    """`layer(x)` by the algorithm measured fastest, where `applies` and `lt_runs` say so.

    Args:
        layer: K channels to N, with a bias.
        x: [..., K].
        gelu: apply the tanh GELU.

    Returns:
        [..., N].
    """
    return torch.ops.gap3d.lt_linear(x, layer.weight, layer.bias, gelu)


@cache
def lt_runs(device: torch.device) -> bool:
    """Whether torch's cuBLASLt can be called for `device`, a GPU of Hopper or later: others are not measured."""
    if device.type != "cuda" or not torch.version.cuda or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    try:
        with torch.cuda.device(device):
            _handle(torch.cuda.current_device())
    except (OSError, AttributeError, RuntimeError) as error:  # linked into torch, say, or without one of the functions
        logger.warning("Products take torch's algorithms: %s", error)
        return False
    return True


def row_class(rows: int) -> int:
    """Numbers of rows with the same result share what was measured."""
    return min(rows // CLASS_ROWS, LAST_CLASS)


def fastest(times: list[float]) -> int:
    """Which suggestion to take by the times of all: the first, unless another is clearly faster.

    Raises:
        RuntimeError: if none of them ran, so that all times are infinite.
    """
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] == float("inf"):
        raise RuntimeError("none of cuBLASLt's suggestions runs")
    return best if times[best] < FASTER * times[0] else 0


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(f"libcublasLt.so.{torch.version.cuda.split('.')[0]}")
    for name, types in _ARGUMENTS.items():
        getattr(library, f"cublasLt{name}").argtypes = types
    return library


def _call(name: str, *arguments: object) -> None:
    status = getattr(_library(), f"cublasLt{name}")(*arguments)
    if status:
        raise RuntimeError(f"cublasLt{name} returned {status}")


def _set(name: str, described: int, attribute: int, value: c_int | c_uint64 | c_void_p) -> None:
    _call(f"{name}SetAttribute", described, attribute, byref(value), ctypes.sizeof(value))


def _created(name: str, *arguments: int) -> int:
    made = c_void_p()
    _call(f"{name}Create", byref(made), *arguments)
    return made.value


def _destroy(library: ctypes.CDLL, description: int, layouts: list[int]) -> None:
    library.cublasLtMatmulDescDestroy(description)
    for layout in layouts:
        library.cublasLtMatrixLayoutDestroy(layout)


@cache
def _handle(device: int) -> int:
    """Of a device, which must be the current one."""
    return _created("")


class _Product:
    """x [rows, K] @ weight [N, K].T + bias [N] as cuBLASLt describes it, and the algorithm for it.

    Attributes:
        way: the suggestion that is taken.
        settled: whether it was chosen, rather than taken because nothing could be measured.
    """

    def __init__(self, device: int, dtype: torch.dtype, rows: int, outputs: int, channels: int, gelu: bool) -> None:
        self.handle, self.description = _handle(device), _created("MatmulDesc", _COMPUTE_32F, _REAL_32F)
        _set("MatmulDesc", self.description, _TRANSA, c_int(_OP_T))
        _set("MatmulDesc", self.description, _EPILOGUE, c_int(_EPILOGUE_GELU_BIAS if gelu else _EPILOGUE_BIAS))
        # Matrices are column by column there, so all are transposed: out.T [N, rows] = weight [N, K] @ x.T.
        sizes = ((channels, outputs), (channels, rows), (outputs, rows))
        self.layouts = [_created("MatrixLayout", _TYPES[dtype], *size, size[0]) for size in sizes]
        # Work that is queued does not need them any more.
        finalize(self, _destroy, _library(), self.description, self.layouts).atexit = False
        self.way, self.settled = _Suggestion(), False

    def suggestions(self, bias: Tensor) -> list[_Suggestion]:
        """cuBLASLt's, without doubles, the one first that torch takes."""
        self._point(bias)
        found: dict[bytes, _Suggestion] = {}
        of_weight, of_x, of_out = self.layouts
        for limit in (WORKSPACE, 0):
            results, count, wanted = (_Suggestion * SUGGESTIONS)(), c_int(), _created("MatmulPreference")
            _set("MatmulPreference", wanted, _MAX_WORKSPACE_BYTES, c_uint64(limit))
            status = _library().cublasLtMatmulAlgoGetHeuristic(
                self.handle, self.description, of_weight, of_x, of_out, of_out, wanted, SUGGESTIONS, results,
                byref(count),
            )  # fmt: skip
            _call("MatmulPreferenceDestroy", wanted)
            if status and not found:  # without a workspace there may be no more
                raise RuntimeError(f"cublasLtMatmulAlgoGetHeuristic returned {status}")
            for result in results[: count.value]:
                if result.state == 0:
                    found.setdefault(bytes(result.algorithm), result)
        if not found:
            raise RuntimeError("cublasLtMatmulAlgoGetHeuristic suggested nothing")
        return list(found.values())

    def accepted(self, algorithm: _Algorithm, bias: Tensor) -> _Suggestion | None:
        """The algorithm of another number of rows with the workspace for these; None if it is refused."""
        self._point(bias)
        of_weight, of_x, of_out = self.layouts
        way = _Suggestion()
        status = _library().cublasLtMatmulAlgoCheck(
            self.handle, self.description, of_weight, of_x, of_out, of_out, byref(algorithm), byref(way)
        )
        if status or way.state or way.workspace > WORKSPACE:
            return None
        way.algorithm = algorithm
        return way

    def run(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, way: _Suggestion) -> None:
        """Queue it on the current stream, under `_lock`: where the bias lies is a part of the description."""
        self._point(bias)
        of_weight, of_x, of_out = self.layouts
        size, result = way.workspace, out.data_ptr()
        # From torch's allocator for this call alone, so that no two streams share it, and a recorded graph has it in
        # memory of its own, which lives as long as the graph.
        room = torch.empty(size, dtype=torch.uint8, device=x.device) if size else None
        _call(
            "Matmul", self.handle, self.description, byref(_ONE), weight.data_ptr(), of_weight, x.data_ptr(), of_x,
            byref(_ZERO), result, of_out, result, of_out, byref(way.algorithm),
            None if room is None else room.data_ptr(), size, _stream(x),
        )  # fmt: skip

    def _point(self, bias: Tensor) -> None:
        _set("MatmulDesc", self.description, _BIAS_POINTER, c_void_p(bias.data_ptr()))


# By hand, as in `gluon_attention`: the decorator checks 0.2 ms a call.
torch.library.define("gap3d::lt_linear", "(Tensor x, Tensor weight, Tensor bias, bool gelu) -> Tensor")

_lock = Lock()
"""Of both dicts, and of a description between its bias and its launch: within a call through ctypes others may run.
A description for every thread would cost more than the few microseconds that one waits."""

_chosen: dict[tuple, _Algorithm | None] = {}
"""By class of rows; None for whatever is suggested first."""

_prepared: dict[tuple, _Product | None] = {}
"""By number of rows; None where torch's product is taken."""


@torch.library.register_fake("gap3d::lt_linear")
def _shape(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.impl("gap3d::lt_linear", "CUDA")
def _on_cuda(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    if x.get_device() == torch.cuda.current_device():
        return _linear(x, weight, bias, gelu)
    with torch.cuda.device(x.device):
        return _linear(x, weight, bias, gelu)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    rows, weight, bias = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous(), bias.contiguous()
    places = rows.data_ptr() | weight.data_ptr() | bias.data_ptr()
    if len(rows) and places % ALIGNMENT == 0:
        out = _shape(x, weight, bias, gelu)
        with _lock:
            if _made(rows, weight, bias, out, gelu):
                return out
    return _by_torch(rows, weight, bias, gelu).view(*x.shape[:-1], len(weight))


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    if gelu:
        return torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)
    return F.linear(x, weight, bias)


def _made(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gelu: bool) -> bool:
    """Whether the product is queued; where cuBLASLt has failed, that number of rows is torch's from then on."""
    key = (x.get_device(), x.dtype, len(x), *weight.shape, gelu)
    product = _prepared.get(key)
    if product is None and key in _prepared:
        return False
    try:
        if product is None or not (product.settled or torch.cuda.is_current_stream_capturing()):
            product = product or _Product(*key)
            _settle(product, key, x, weight, bias, out)
            _keep(key, product)
        product.run(x, weight, bias, out, product.way)
    except RuntimeError as error:
        logger.warning("The product of %d x %d to %d takes torch's algorithm: %s", *x.shape, len(weight), error)
        _keep(key, None)
        return False
    return True


def _keep(key: tuple, product: _Product | None) -> None:
    if len(_prepared) >= MOST_PREPARED:
        _prepared.clear()
    _prepared[key] = product


def _settle(product: _Product, key: tuple, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Choose the algorithm: measured once per process for rows of a like number."""
    kind = (*key[:2], row_class(len(x)), *key[3:])
    if kind in _chosen:
        known = _chosen[kind]
        way = None if known is None else product.accepted(known, bias)
        product.way, product.settled = way or product.suggestions(bias)[0], True
        return
    ways = product.suggestions(bias)
    if torch.cuda.is_current_stream_capturing():
        product.way = ways[0]  # nothing can be measured inside a graph
        return
    number = fastest(milliseconds([partial(product.run, x, weight, bias, out, way) for way in ways]))
    _chosen[kind] = ways[number].algorithm if number else None
    product.way, product.settled = ways[number], True


def _stream(x: Tensor) -> int:
    """The current one of the device of x."""
    return torch._C._cuda_getCurrentRawStream(x.get_device())
