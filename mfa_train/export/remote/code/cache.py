"""The entries of past tokens as transformers' Cache: what the attention says is kept of a token, and nothing else.

Rows that are padded in front hold their own tokens alone, from place 0 on.
"""

import torch
from torch import Tensor
from transformers import Cache

from mfa_train.attention.cache import DecodeCache


class EntryCache(DecodeCache, Cache):  # type: ignore[misc]
    """Entries of every layer, with room for `capacity` tokens a row; more are made room for as they come.

    In `dtype`, torch.float8_e4m3fn say, instead of the entries' own.
    """

    def __init__(self, num_layers: int, capacity: int = 0, dtype: torch.dtype | None = None):
        DecodeCache.__init__(self, num_layers, capacity, dtype)
        Cache.__init__(self, layers=self.layers)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"EntryCache({self.length} tokens of {self.bytes_per_token} bytes, {self.num_bytes} bytes in all)"

    is_compileable = False
    is_croppable = True
    is_sliding = is_linear = is_dummy = property(lambda self: [False] * len(self.layers))
    is_initialized = property(lambda self: self.length > 0)

    @property
    def batch_size(self) -> int:
        """-1 before the first token."""
        return len(self.layers[0].buffers[0]) if self.length else -1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a row, padding included."""
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: none."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def reset(self) -> None:
        self.length, self.lengths = 0, None
        for layer in self.layers:
            layer.buffers = ()

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last -tokens_to_remove tokens of every row; above zero, so many are left."""
        removed = -tokens_to_remove if tokens_to_remove <= 0 else max(self.length - tokens_to_remove, 0)
        self.length -= removed
        if self.lengths is not None:
            self.lengths = self.lengths - removed

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.take_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.take_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.length:
            self.take_rows(torch.arange(self.batch_size).repeat_interleave(repeats))
