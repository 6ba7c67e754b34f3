# SPDX-License-Identifier: Apache-2.0
"""Keys and values: of what was read once (`Prefix`), and of what is being read (`Workspace`)."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_vlm_ros.models.tokens import Tokens

# Slots are made in such steps, so that a question that is a little longer finds room.
STEP = 64
# A workspace this many times longer than what is asked for gives its memory back.
WASTE = 4


@dataclass(eq=False)
class Prefix:
    """What the language model has read: the keys and values of each layer. Written once.

    It is made unread: its `unread` tokens are read in one pass with the first question, and
    `fill` takes up their keys and values then. A second `fill` is refused, so that whoever asks
    a prefix that was read finds it as the first question left it.

    Attributes:
        length: tokens, visual ones among them, read or not.
        end: the position id of what follows them.
        reader: identifies the language model that reads it; no other can continue it.
        layers: for each layer the keys and the values, [1, heads, length, head size]; () until
            they are read.
        unread: a prefix (None: nothing), and the tokens behind it that make up the rest; None:
            all is read.
        places: int64 [length], at which position each token stands, if the reader has to know it of
            what was read; None: it need not, or all is unread.
    """

    length: int
    end: int
    reader: object
    unread: tuple[Prefix | None, Tokens] | None
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    places: Tensor | None = None

    def fill(self, layers: tuple[tuple[Tensor, Tensor], ...]) -> None:
        """Take up what was read. `RuntimeError`: it was filled before."""
        if self.unread is None:
            raise RuntimeError("this prefix was read before: its keys and values never change")
        self.layers, self.unread = layers, None

    @property
    def memory_bytes(self) -> int:
        """Bytes that the keys and values take."""
        return sum(states.nbytes for layer in self.layers for states in layer)


class Workspace:
    """The keys and values of the conversation that is going on, in buffers that are made once.

    A layer's buffer is [1, heads, capacity, head size]; its first `lengths[layer]` slots are in
    use. The layers may hold different numbers of tokens, and count their positions apart, since
    tokens can be dropped between two layers.

    The prefix that was asked last stays at the beginning: the next question on it copies nothing,
    it only forgets what was written behind. Another prefix is copied in once.

    Attributes:
        keys, values: one buffer a layer.
        lengths: slots in use, of each layer.
        positions: the position of the next token, of each layer.
        capacity: slots that there are.
    """

    def __init__(
        self, layers: int, heads: int, head_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths = [0] * layers
        self.positions = [0] * layers
        self.capacity = 0
        self._shape = heads, head_size
        self._dtype, self._device = dtype, device
        self._held: weakref.ref[Prefix] | None = None  # weak: a scene that is let go frees its own

    def begin(self, prefix: Prefix | None, room: int) -> None:
        """Hold a prefix that was read (None: nothing), nothing behind it, and room for more."""
        length = prefix.length if prefix else 0
        held = self._held() if self._held else None
        fits = length + room <= self.capacity <= WASTE * (length + room + STEP)
        self.lengths = [length if fits and held is prefix else 0] * len(self.lengths)
        if not fits:
            self._allocate(length + room)
        if prefix and not (fits and held is prefix):
            for index, (keys, values) in enumerate(prefix.layers):
                self.keys[index][:, :, :length] = keys
                self.values[index][:, :, :length] = values
        self.lengths = [length] * len(self.lengths)
        self.positions = [prefix.end if prefix else 0] * len(self.lengths)
        self._held = weakref.ref(prefix) if prefix else None

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put n more tokens into a layer.

        Args:
            layer: its index.
            keys, values: [1, heads, n, head size].

        Returns:
            Views of all that the layer holds now, [1, heads, length, head size].
        """
        start = self.lengths[layer]
        end = start + keys.shape[2]
        if end > self.capacity:
            self._allocate(2 * end)
        held, shown = self.keys[layer], self.values[layer]
        held.narrow(2, start, end - start).copy_(keys)
        shown.narrow(2, start, end - start).copy_(values)
        self.lengths[layer] = end
        return held.narrow(2, 0, end), shown.narrow(2, 0, end)

    def copy_to(self, prefix: Prefix) -> None:
        """Fill a prefix with a copy of the first slots, into which it was just read.

        The workspace goes on holding it.
        """
        length = prefix.length
        prefix.fill(
            tuple(
                (keys[:, :, :length].clone(), values[:, :, :length].clone())
                for keys, values in zip(self.keys, self.values, strict=True)
            )
        )
        self._held = weakref.ref(prefix)

    def _allocate(self, slots: int) -> None:
        """New buffers of at least so many slots; what is in use is copied."""
        self.capacity = -(-slots // STEP) * STEP
        heads, size = self._shape
        for buffers in (self.keys, self.values):
            # One after the other, each let go before the next is made.
            for layer, used in enumerate(self.lengths):
                # Zeros: a masked slot still takes part in sums, and what lies there could be NaN.
                made = torch.zeros(
                    1, heads, self.capacity, size, dtype=self._dtype, device=self._device
                )
                if layer < len(buffers):
                    made[:, :, :used] = buffers[layer][:, :, :used]
                    buffers[layer] = made
                else:
                    buffers.append(made)
