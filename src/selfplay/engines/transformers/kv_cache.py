"""A KV cache with preallocated room, so that appending a token does not copy the cache."""

from sys import modules
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from selfplay.models.structure import bare

BLOCK = 128  # maximum free positions, so that short replies do not hold the memory of the longest


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, [B, H, S, D] each, as views of larger tensors.

    Args:
        room: expected number of tokens after the prefill; the cache grows if there are more.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self._most = room, 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the states; return all keys and values so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0:
            self.lazy_initialization(key_states, value_states)
            self._most = end + self.room
            self._take(key_states, value_states)
            return self.keys, self.values
        if not self._owns() or end > self._keys.shape[-2]:  # type: ignore[union-attr]
            self._take(self.keys, self.values, key_states.shape[-2])
        assert self._keys is not None and self._values is not None
        self._keys[:, :, start:end], self._values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; rows may repeat."""
        if self.get_seq_length():
            self._take(self.keys[indices], self.values[indices])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As `batch_select_indices`; the only such method that every kind of layer has."""
        self.batch_select_indices(beam_idx)

    def _owns(self) -> bool:
        """Whether `keys` still is a view of the larger tensor; methods of the base class may replace it."""
        return self._keys is not None and self.keys.data_ptr() == self._keys.data_ptr()

    def _take(self, keys: Tensor, values: Tensor, more: int = 0) -> None:
        """Copy the states into new tensors with room for at least `more` further tokens."""
        size = keys.shape[-2]
        room = max(min(self._most - size, BLOCK), more)
        self._keys = keys.new_empty(*keys.shape[:-2], size + room, keys.shape[-1])
        self._values = values.new_empty(*values.shape[:-2], size + room, values.shape[-1])
        self._keys[:, :, :size], self._values[:, :, :size] = keys, values
        self.keys, self.values = self._keys[:, :, :size], self._values[:, :, :size]


def new_cache(model: Any, room: int) -> Cache:
    """An empty cache for a model, which can append `room` tokens after the prefill without copying.

    Models with other cache layers (sliding window, recurrent state) use transformers' own. A sliding-window layer is
    replaced if the model's masks have no window (Moshi), since it would evict tokens that the model attends to.
    """
    cache = DynamicCache(config=model.config)
    windows = hasattr(modules[type(bare(model)).__module__], "create_sliding_window_causal_mask")
    cache.layers = [
        DynamicLayer() if type(layer) is DynamicSlidingWindowLayer and not windows else layer for layer in cache.layers
    ]
    if all(type(layer) is DynamicLayer for layer in cache.layers) and cache.layers:
        cache.layers = [PreallocatedLayer(room) for _ in cache.layers]
    return cache
