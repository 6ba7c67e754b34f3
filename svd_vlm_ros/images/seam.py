# SPDX-License-Identifier: Apache-2.0
"""The seam that a damaged JPEG shows where its brightness or a colour jumps and stays so.

A block's mean is stored as the difference from the block before. One changed bit in it shifts all
blocks behind, in the order of reading, and breaks no code. The shift begins within a row of MCUs
(minimum coded units), so that its upper edge has a step of one MCU's height:

    . . . . . . .
    . . . D D D D     D: the image jumps by the same step across the upper edge of this MCU
    D D D . . . .     .: it does not
    . . . . . . .

Read row by row, these are as many D one behind the other as a row has MCUs, with no jump before and
behind. A shift from a row's first MCUs on has a straight edge, as a horizon or the bars of a film
have, and is not looked for; nor is one that begins in the first row or the last. Stairs of one step
in a drawing whose edges lie on the MCUs' are the same pixels: what has no noise at all is passed.
A robot that is refused its images stands still, so all that is doubtful is passed too: some half
of the shifts are found, most of them where an image has few edges of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LEAST = 12.0  # levels of 255; smaller ones change no answer, and are steps of coarse quantization
# Of the MCUs, how many do as they should: of all, by the MCUs' height, and of each group. An edge
# that slopes by one MCU's height across the image jumps in 6 of 8 rows, or of 16.
_SHARES, _LEAST_SHARE = {8: 0.9, 16: 0.8, 32: 0.8}, 0.75
_AGREE = 0.15  # of the step: what the groups' medians may be off, in an image without noise
_BORDER, _AGREE_AT_BORDER = 3, 0.25  # MCUs at each border, whose median is to be the step
_GARBAGE = 0.25  # of a row: MCUs before the shift that make no sense, until the codes are in step
_COUNTED = 0.8  # of the MCUs, at least; what is black or white and does not jump tells nothing
_FEWEST, _LEAST_COLUMNS = 2, 12  # MCUs of each group, and of a row
_DRAWN = 0.75  # of the jumps: if more are the same within _EXACT, the image was drawn, not taken
_EXACT = 0.5
_DARK, _BRIGHT, _CLIPPED = 2, 253, 0.25
_LAST = 4  # columns whose sums are added up at once


class Seam(NamedTuple):
    """Where a shift begins, in MCUs, and how large it is, in levels of a channel."""

    row: int
    column: int
    step: float


def find_seam(pixels: np.ndarray, mcu: tuple[int, int]) -> Seam | None:
    """The first seam in uint8 pixels [H, W] or [H, W, channels]; mcu: its height and width."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width = mcu
    edges = np.arange(height, pixels.shape[0] - 3, height)
    columns = -(-pixels.shape[1] // width)
    if len(edges) < 2 or columns < _LEAST_COLUMNS:
        return None
    steps = _steps(pixels, edges, width)  # [edges, columns, channels]
    channels = np.ascontiguousarray(steps.reshape(-1, steps.shape[2]).T)
    sums = np.cumsum(channels, axis=1, dtype=np.float64)
    # Of as many jumps as a row has, from each but the first of a row on.
    means = np.abs(sums[:, columns:] - sums[:, :-columns]).reshape(-1, len(edges) - 1, columns)
    largest = means[..., :-1].max(2).T / columns
    some = np.argwhere(largest >= LEAST * _LEAST_SHARE)  # row, channel
    if len(some) == 0:
        return None
    pair, channel = some[:, :1] + (0, 1), some[:, 1:]
    jumps = steps[pair, :, channel]  # [N, 2, columns]
    looked_at, place = np.unique(pair, return_inverse=True)
    counted = _lit(pixels, edges[looked_at], width)[place.reshape(pair.shape), :, channel]
    counted |= np.abs(jumps) >= LEAST
    for number, begin, step in _shifts(jumps, counted, _SHARES[height]):
        row = int(some[number, 0])
        if _is_one_shift(steps[row : row + 2], counted[number], begin, step):
            return Seam(row + 1, begin, step)
    return None


def _steps(pixels: np.ndarray, edges: np.ndarray, width: int) -> np.ndarray:
    """The jump across the upper edge of each MCU below `edges`, its columns' mean.

    Two ways to take it, of which the one that finds less in this image is chosen: the former is
    better where there is texture, the latter in what is smooth.
    """
    some = edges[:: max(len(edges) // 8, 1)]
    way = min(
        (_jumps_of_means, _jumps_less_slopes),
        key=lambda way: float(np.abs(_means(way(pixels, some), width)).mean()),
    )
    return _means(way(pixels, edges), width)


# Offsets of rows from an edge. A decoder smooths colours over the first row on both sides.
def _jumps_of_means(pixels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Four times the difference of the means of two rows on both sides."""
    total = np.add(pixels[edges + 1], pixels[edges + 2], dtype=np.int16)
    total -= pixels[edges - 2]
    total -= pixels[edges - 3]
    return np.left_shift(total, 1, out=total)


def _jumps_less_slopes(pixels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Four times p(1) - p(-2) - 3/4 (p(3) - p(1) + p(-2) - p(-4)): what the slopes on both sides
    make of the difference over three rows is taken off.
    """
    total = np.subtract(pixels[edges + 1], pixels[edges - 2], dtype=np.int16)
    total *= 7
    slope = np.subtract(pixels[edges + 3], pixels[edges - 4], dtype=np.int16)
    slope *= 3
    return np.subtract(total, slope, out=total)


def _means(rows: np.ndarray, width: int) -> np.ndarray:
    """[N, W, channels], four times the values, to the means of `width` columns each.

    Added by halves: a matrix product would wake the threads of BLAS for a millisecond's work.
    """
    count, total, channels = rows.shape
    whole = total // width
    sums = rows[:, : whole * width].reshape(count * whole, width * channels)
    while sums.shape[1] > _LAST * channels:  # 16 bits hold eight jumps of up to 10 times 255
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    columns = np.ascontiguousarray(sums.T).reshape(_LAST, channels, -1).sum(0, dtype=np.int32)
    means = columns.T.reshape(count, whole, channels) / np.float32(4 * width)
    if whole * width == total:
        return means
    last = rows[:, whole * width :].mean(1, np.float32) / 4
    return np.concatenate([means, last[:, None]], 1)


def _lit(pixels: np.ndarray, edges: np.ndarray, width: int) -> np.ndarray:
    """Which MCUs below `edges` have few pixels at either end of the scale beside the edge."""
    clipped = np.zeros((len(edges), *pixels.shape[1:]), np.int16)
    for beside in (edges + 1, edges - 2):
        near = pixels[beside]
        clipped |= (near <= _DARK) | (near >= _BRIGHT)
    return 4 * _means(clipped, width) <= _CLIPPED


def _shifts(
    pairs: np.ndarray, counted: np.ndarray, share: float
) -> Iterator[tuple[int, int, float]]:
    """Number, column and size of each shift that begins in the first row of a pair.

    pairs: jumps [N, 2, columns]; counted: which of them tell something. Both rows one behind the
    other, and all pairs at once: an image of many edges has hundreds.
    """
    columns = pairs.shape[2]
    steps, counted = pairs.reshape(-1, 2 * columns), counted.reshape(-1, 2 * columns)
    each = np.arange(len(steps))[:, None]
    sums, counts = _sums(steps * counted).astype(np.float64), _sums(counted)
    number = np.maximum(counts[:, columns:] - counts[:, :-columns], 1)
    means = (sums[:, columns:] - sums[:, :-columns]) / number
    window = 1 + np.abs(means[:, 1:columns]).argmax(1)[:, None] + np.arange(columns)
    jump, used = steps[each, window], counted[each, window]
    there = used.sum(1)
    step = _medians(jump, used)[:, None]
    drawn = ((np.abs(jump - step) < _EXACT) & used).sum(1) / np.maximum(there, 1)
    doubtful = np.minimum(there / columns, counts[:, -1] / (2 * columns)) < _COUNTED
    # Nearer to where it should be than to the other.
    jumps = (np.abs(steps - step) <= np.abs(step) / 2) & counted
    rests = (np.abs(steps) <= np.abs(step) / 2) & counted
    # What fits if it begins at each of the columns: rests before, jumps, rests behind.
    rested, jumped = _sums(rests), _sums(jumps)
    first, second = slice(1, columns), slice(columns + 1, 2 * columns)
    fits = rested[:, first] - jumped[:, first] + jumped[:, second] - rested[:, second]
    begin = 1 + fits.argmax(1)
    # Without garbage, then with as much as there may be before the shift and thus at its lower end.
    fit = [
        _are_grouped(begin, skipped, np.stack([rested, jumped]), counts, share)
        for skipped in (0, int(_GARBAGE * columns))
    ]
    right = (fit[0] | fit[1]) & ~doubtful & (np.abs(step[:, 0]) >= LEAST) & (drawn <= _DRAWN)
    for i in np.flatnonzero(right):
        size = float(step[i, 0])
        if _reaches_borders(steps[i][counted[i]], int(counts[i, columns]), size):
            yield int(i), int(begin[i]), size


def _sums(values: np.ndarray) -> np.ndarray:
    """The sums of [N, columns] before each column, and of all: [N, columns + 1]."""
    sums = np.cumsum(values, axis=1)
    return np.concatenate([np.zeros((len(sums), 1), sums.dtype), sums], 1)


def _medians(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The median of each row of those that count; infinite if none does."""
    ordered = np.sort(np.where(counted, values, np.inf), axis=1)
    last = np.maximum(counted.sum(1) - 1, 0)
    each = np.arange(len(ordered))
    return (ordered[each, last // 2] + ordered[each, (last + 1) // 2]) / 2


def _are_grouped(
    begin: np.ndarray, skipped: int, sums: np.ndarray, counts: np.ndarray, share: float
) -> np.ndarray:
    """Whether enough of N pairs rest, jump, jump and rest where they should if it begins there.

    sums: before each column, of the MCUs that rest and that jump [2, N, 2 * columns + 1].
    """
    columns, each = counts.shape[1] // 2, np.arange(len(begin))
    before = np.maximum(begin - skipped, 0)
    full = np.full_like(begin, columns)
    starts = np.stack([0 * begin, begin, full, columns + begin])
    ends = np.stack([before, full, columns + before, 2 * full])
    there = counts[each, ends] - counts[each, starts]  # [4, N]
    which = np.array([[0], [1], [1], [0]])
    right = sums[which, each, ends] - sums[which, each, starts]
    enough = (there >= _FEWEST) & (right >= _LEAST_SHARE * there)
    return enough.all(0) & (right.sum(0) >= share * there.sum(0))


def _is_one_shift(steps: np.ndarray, counted: np.ndarray, begin: int, step: float) -> bool:
    """Whether every channel jumps by one step of its own, in both rows, and rests elsewhere.

    In an image of itself two edges of several colours meet so, by chance, in one channel at most.
    """
    columns = steps.shape[1]
    flat, counted = steps.reshape(2 * columns, -1), counted.ravel()
    ends = (0, begin, columns, columns + begin, 2 * columns)
    groups = [flat[a:b][counted[a:b]] for a, b in itertools.pairwise(ends)]
    medians = [np.median(group, axis=0) for group in groups]
    noises = [
        np.median(np.abs(group - median), axis=0) / len(group) ** 0.5
        for group, median in zip(groups, medians, strict=True)
    ]
    allowed = _AGREE * abs(step) + 1 + 2 * np.max(noises, axis=0)
    off = np.abs([medians[0], medians[1] - medians[2], medians[3]])
    return bool((off <= allowed).all())


def _reaches_borders(steps: np.ndarray, first: int, step: float) -> bool:
    """Whether the jumps go on to the right end of the first row, of `first` MCUs, and from the
    left end of the second, in full: an object with two edges, or one that slopes, does so seldom.
    """
    off = np.abs(steps - step)
    ends = off[first - _BORDER : first], off[first : first + _BORDER]
    noise = float(np.median(off[off <= abs(step) / 2]))  # of those that jump
    allowed = _AGREE_AT_BORDER * abs(step) + 1 + noise
    return all(float(np.median(end)) <= allowed for end in ends)
