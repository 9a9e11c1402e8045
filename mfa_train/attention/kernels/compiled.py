"""decoding.cpp, built with rows.cpp by the machine's own compiler when it is first of use (seconds), and called through
ctypes.

The library lies in `$XDG_CACHE_HOME/mfa_train` (~/.cache/mfa_train) under the hash of its source, its flags and the
kind of CPU: folders may be shared by unlike machines, and by ranks that build at once. Its threads are those of the
OpenMP that torch has loaded, as many as `torch.get_num_threads()`.

What it gives up: a compiler is needed (`$CXX`, else `c++`, GCC 12 or Clang 15 or later, with OpenMP). Without one
`library` says so once on standard error, and torch's ops do the work.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mfa_train.attention.rope import Positions

SOURCES, HEADERS = (sorted(Path(__file__).parent.glob(kind)) for kind in ("*.cpp", "*.h"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared"]

LEAST_TOKENS = 512
"""What is saved on shorter caches, some 30 µs a layer and token, would not repay the build."""


def _fields(type_: type, names: str) -> list[tuple[str, type]]:
    return [(name, type_) for name in names.split()]


class _Part(ctypes.Structure):
    """`Part` in decoding.cpp."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *_fields(ctypes.c_int64, "batch token head dim half"),
        ("query", ctypes.c_void_p),
    ]


class _Factors(ctypes.Structure):
    """`Factors` in decoding.cpp."""

    _fields_ = [("data", ctypes.c_void_p), *_fields(ctypes.c_int64, "batch head ranks half")]


class _Call(ctypes.Structure):
    """`Call` in decoding.cpp."""

    _fields_ = [
        *_fields(ctypes.c_int64, "batch queries heads kv_heads tokens key_parts value_parts threads"),
        *_fields(ctypes.POINTER(_Part), "keys values"),
        *_fields(_Factors, "of_keys of_values"),
        ("scale", ctypes.c_float),
        *_fields(ctypes.c_void_p, "lengths sinks cos sin"),
        *_fields(ctypes.c_int64, "cos_batch cos_token interleave"),
        *_fields(ctypes.c_void_p, "workspace out"),
    ]


def serves(q: Sequence[Tensor], entries: Sequence[Tensor]) -> bool:
    """Whether attention over the entries (keys, values, factors) is to be computed here."""
    if entries[0].shape[1] < LEAST_TOKENS or not entries[0].is_cpu or torch.compiler.is_compiling():
        return False  # what torch.compile traces has no memory to point to
    plain = all(x.dtype in (torch.float32, torch.bfloat16) and x.stride(-1) == 1 for x in entries)
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in (*q, *entries))
    return plain and q[0].dtype == entries[0].dtype and not graph and library() is not None


def attention(
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Tensor,
    scale: float,
    lengths: Tensor | None,
    sinks: Tensor | None,
    turned: Positions | None,
    factors: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """`decoding_attention` where `serves`: all arithmetic is float32."""
    compiled = library()
    assert compiled is not None
    batch, queries, heads, _ = q[0].shape
    q = [part.float().contiguous() for part in q]
    if factors is None:
        kv_heads, keys, values = max(x.shape[2] for x in (*k, v)), list(map(_part, k, q)), [_part(v)]
    else:  # each rank is a part that all heads share
        kv_heads, keys = 1, [_part(k[0][:, :, r : r + 1], q[0]) for r in range(k[0].shape[2])]
        values = [_part(v[:, :, r : r + 1]) for r in range(v.shape[2])]
    call = _Call(batch, queries, heads, kv_heads, v.shape[1], len(keys), len(values), torch.get_num_threads())
    call.keys, call.values = (_Part * len(keys))(*keys), (_Part * len(values))(*values)
    call.scale = scale
    if factors is not None:
        side_by_side = [_side_by_side(x) for x in factors]
        call.of_keys, call.of_values = map(_factors, side_by_side)
    if lengths is not None:
        lengths = lengths.to(torch.int64).contiguous()
        call.lengths = lengths.data_ptr()
    if sinks is not None:
        sinks = sinks.to(torch.float32).contiguous()
        call.sinks = sinks.data_ptr()
    if turned is not None:
        cos, sin = turned.cos.float().contiguous(), turned.sin.float().contiguous()
        call.cos, call.sin = cos.data_ptr(), sin.data_ptr()
        call.cos_batch, call.cos_token = cos.stride(0) if cos.dim() == 3 else 0, cos.stride(-2)
        call.interleave = turned.interleave
    out = torch.empty(batch, queries, heads, v.shape[3], dtype=torch.float32)
    workspace = torch.empty(compiled.decoding_workspace(ctypes.byref(call)), dtype=torch.float32)
    call.out, call.workspace = out.data_ptr(), workspace.data_ptr()
    compiled.decoding_attention(ctypes.byref(call))
    return out.to(v.dtype)


def _part(x: Tensor, query: Tensor | None = None) -> _Part:
    """x (batch, tokens, heads, dim); a single head is shared by all."""
    batch, token, head, _ = x.stride()
    part = _Part(x.data_ptr(), batch, token, head if x.shape[2] > 1 else 0, x.shape[3], x.dtype == torch.bfloat16)
    if query is not None:
        part.query = query.data_ptr()
    return part


def _factors(x: Tensor) -> _Factors:
    """x (batch, tokens, heads, rank)"""
    return _Factors(x.data_ptr(), x.stride(0), x.stride(2), x.shape[3], x.dtype == torch.bfloat16)


def _side_by_side(x: Tensor) -> Tensor:
    """x (batch, tokens, heads, rank) with a head's tokens behind each other, as they are in the cache."""
    return x if x.stride(1) == x.shape[3] else x.transpose(1, 2).contiguous().transpose(1, 2)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels', built if it has not been yet; None where it can't be."""
    try:
        command = [*shlex.split(os.environ.get("CXX") or "c++"), *FLAGS]
        texts = [path.read_text() for path in (*SOURCES, *HEADERS)]
        identity = "\0".join([*texts, *command, platform.machine(), _cpu()])
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mfa_train"
        path = cache / f"decoding-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
        if not path.exists():
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is loaded from it runs
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                made = Path(folder) / path.name
                subprocess.run([*command, "-o", made, *SOURCES], check=True, capture_output=True, text=True)
                made.replace(path)
        compiled = ctypes.CDLL(str(path))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = ((getattr(error, "stderr", None) or "").strip() or str(error)).splitlines()[0]
        print(f"decoding runs on torch's ops, which are slower: its kernel was not built ({reason})", file=sys.stderr)
        return None
    compiled.decoding_workspace.restype = ctypes.c_int64
    compiled.rows_product.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 5, ctypes.c_void_p]
    return compiled


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))})
    )
