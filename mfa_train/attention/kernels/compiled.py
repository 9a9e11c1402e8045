"""decoding.cpp, compiled on first use and called through ctypes."""

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

SOURCE = Path(__file__).with_name("decoding.cpp")
FLAGS = "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -fPIC -shared".split()


class _Part(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "token", "head", "dim", "half")),
        ("query", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("factor_batch", "factor_token", "factor_head")),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "batch",
                "queries",
                "heads",
                "kv_heads",
                "tokens",
                "key_parts",
                "value_parts",
                "threads",
            )
        ),
        ("keys", ctypes.POINTER(_Part)),
        ("values", ctypes.POINTER(_Part)),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("lengths", "sinks", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("cos_batch", "cos_token", "interleave")),
        *((name, ctypes.c_void_p) for name in ("workspace", "out")),
    ]


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
    """`decoding_attention` on a CPU, of entries in float32 or bfloat16; all arithmetic is float32."""
    batch, queries, heads, _ = q[0].shape
    tokens, v_dim = v.shape[1], v.shape[3]
    held = [part.to(torch.float32, memory_format=torch.contiguous_format) for part in q]
    if factors is None:
        keys = [_part(part, query) for part, query in zip(k, held)]
        values = [_part(v)]
        kv_heads = max(x.shape[2] for x in (*k, v))
    else:
        a_k, a_v = factors
        keys = [_part(k[0][:, :, r : r + 1], held[0], a_k[..., r]) for r in range(a_k.shape[3])]
        values = [_part(v[:, :, r : r + 1], None, a_v[..., r]) for r in range(a_v.shape[3])]
        scale, kv_heads = scale / a_k.shape[3], 1
    out = torch.empty(batch, queries, heads, v_dim)
    call = _Call(
        batch,
        queries,
        heads,
        kv_heads,
        tokens,
        len(keys),
        len(values),
        torch.get_num_threads(),
        (_Part * len(keys))(*keys),
        (_Part * len(values))(*values),
        scale,
    )
    call.out = out.data_ptr()
    if lengths is not None:
        held.append(lengths.to(torch.int64).contiguous())
        call.lengths = held[-1].data_ptr()
    if sinks is not None:
        held.append(sinks.to(torch.float32).contiguous())
        call.sinks = held[-1].data_ptr()
    if turned is not None:
        call.cos, call.sin = turned.cos.data_ptr(), turned.sin.data_ptr()
        call.cos_batch = turned.cos.stride(0) if turned.cos.dim() == 3 else 0
        call.cos_token, call.interleave = turned.cos.stride(-2), turned.interleave
    workspace = torch.empty(_library().decoding_workspace(ctypes.byref(call)))
    call.workspace = workspace.data_ptr()
    _library().decoding_attention(ctypes.byref(call))
    out = out if factors is None else out.div_(factors[1].shape[3])
    return out.to(q[0].dtype)


def _part(x: Tensor, query: Tensor | None = None, factor: Tensor | None = None) -> _Part:
    """x (batch, tokens, heads, dim); with one head it is shared by all."""
    batch, token, head, _ = x.stride()
    part = _Part(x.data_ptr(), batch, token, head if x.shape[2] > 1 else 0, x.shape[3], x.dtype == torch.bfloat16)
    if query is not None:
        part.query = query.data_ptr()
    if factor is not None:
        part.factor = factor.data_ptr()
        part.factor_batch, part.factor_token, part.factor_head = factor.stride()
    return part


@functools.cache
def _library():
    name = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), *map(str.encode, FLAGS)])).hexdigest()[:16]
    path = Path("/tmp/kernel") / f"{name}.so"
    if not path.exists():
        subprocess.run([os.environ.get("CXX", "c++"), *FLAGS, "-o", str(path), str(SOURCE)], check=True)
    library = ctypes.CDLL(str(path))
    library.decoding_workspace.restype = ctypes.c_int64
    return library
