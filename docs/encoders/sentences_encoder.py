"""Sentences: how often each run of three to five letters occurs, hashed to a fixed length."""

import re
from collections import Counter
from zlib import crc32

import numpy as np
import numpy.typing as npt

from siamese_search import EncoderProtocol


class Sentences(EncoderProtocol):
    name, fingerprint, suffixes = "sentences", "letters 1", (".txt", ".md")
    dimension = 1024
    threshold = 0.5

    def decode(self, data: bytes) -> str:
        words = re.findall(r"\w+", data.decode("utf-8").casefold())
        if not words:
            raise ValueError("there are no words in it")
        return f" {' '.join(words)} "

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            runs = Counter(text[at : at + n] for n in (3, 4, 5) for at in range(len(text) - n + 1))
            for run, count in runs.items():
                place = crc32(run.encode())
                vectors[row, place % self.dimension] += (1 if place >> 31 else -1) * count**0.5
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
