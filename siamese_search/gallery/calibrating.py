"""Calibrating a gallery: by its own items, or by pictures of strangers."""

from __future__ import annotations

SAMPLE = 4000  # items that calibration looks at
CHANGED = 0.2  # of identities or items, from which on a calibration is stale
