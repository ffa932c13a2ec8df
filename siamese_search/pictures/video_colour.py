"""High dynamic range and wide gamuts, as a screen shows them: 8-bit sRGB.

What is brighter than the reference white of 203 cd/m² (ITU-R BT.2408) is white. Knows nothing of
videos.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray

PQ, HLG = 16, 18  # transfer characteristics, and primaries, as ITU-T H.273 numbers them
BT2020, P3_CINEMA, P3 = 9, 11, 12

_WHITE: Final = 203.0  # cd/m², of both
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # of the screen that HLG is made for (BT.2100)
_LUMA: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
_FROM_P3: Final = [[1.2249, -0.2249, 0.0], [-0.0420, 1.0420, 0.0], [-0.0196, -0.0786, 1.0982]]
_TO_BT709: Final = {  # linear light to that of sRGB's primaries (BT.2087)
    BT2020: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    P3: _FROM_P3,
    P3_CINEMA: _FROM_P3,
}
_AT_ONCE: Final = 1 << 18  # pixels


def is_beyond_srgb(transfer: int, primaries: int) -> bool:
    """Whether a screen of sRGB cannot show samples as they are."""
    return transfer in (PQ, HLG) or primaries in _TO_BT709


def to_srgb(
    samples: npt.NDArray[np.uint16], transfer: int, primaries: int
) -> npt.NDArray[np.uint8]:
    """Samples of 16 bits, RGB (height, width, 3), as uint8 of the same shape."""
    high = transfer in (PQ, HLG)
    matrix = np.array(_TO_BT709[primaries if primaries in _TO_BT709 else BT2020], np.float32)
    table = _linear(transfer if high else 0)
    shown = np.empty(samples.shape, np.uint8)
    rows = max(1, _AT_ONCE // max(1, samples.shape[1]))
    for top in range(0, len(samples), rows):
        light = table[samples[top : top + rows]]
        if transfer == HLG:
            light *= _HLG_PEAK / _WHITE * (light @ _LUMA)[..., None] ** (_HLG_GAMMA - 1)
        light = (light @ matrix.T).clip(0, 1)
        curve = 1.055 * light ** (1 / 2.4) - 0.055
        shown[top : top + rows] = np.where(light > 0.0031308, curve, 12.92 * light) * 255 + 0.5
    return shown


@cache
def _linear(transfer: int) -> FloatArray:
    """The light of 65,536 levels, 1 for white; of HLG, the scene's (BT.2100); else sRGB's."""
    level = np.linspace(0, 1, 1 << 16)
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 32
        c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
        root = level ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10_000 / _WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
    else:
        light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)
