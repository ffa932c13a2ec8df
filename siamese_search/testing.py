"""What every encoder of one's own passes: tests to inherit, for pytest or any other runner.

class TestSounds(EncoderSuite):
samples = (Path("dog.wav"), Path("bell.wav"))
broken = (b"no sound",)

def encoder(self):
return Sounds()
"""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.embedding.contract import EncoderProtocol
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError
from siamese_search.gallery.gallery import Gallery

ALIKE = 0.999  # the least cosine of two embeddings of the same file
SIDE = 64  # pixels


class EncoderSuite:
    """Inherit from it, give the files, and an encoder, made anew at each call."""

    samples: Sequence[Path] = ()
    """Two files or more that it takes, of different things."""

    broken: Sequence[bytes] = ()
    """Contents of files that it refuses."""

    @abstractmethod
    def encoder(self) -> EncoderProtocol:
        """The encoder to be tested."""

    def test_it_fulfils_the_protocol(self) -> None:
        opened = Encoder.open(self.encoder())
        assert opened.fingerprint == Encoder.open(self.encoder()).fingerprint
        assert len(self.samples) > 1, "give two samples or more"
        for sample in self.samples:
            assert opened.kind.takes(sample.name), f"{sample} has none of its suffixes"

    def test_embeddings_are_unit_vectors_that_depend_on_their_own_file(self) -> None:
        own, data = self.encoder(), self._contents()
        together = own.embed([own.decode(one) for one in data])
        assert together.shape == (len(data), own.dimension), together.shape
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-3)
        another = self.encoder()
        for one, row in zip(data, together, strict=True):
            alone = another.embed([another.decode(one)])
            assert float(alone[0] @ row) > ALIKE, "a file's embedding depends on its batch"
        first, second = together[:2]
        assert float(first @ second) < 1 - 1e-6, "different files have one embedding"

    def test_threads_may_share_it(self) -> None:
        own, data = self.encoder(), self._contents()

        def embedded(one: bytes) -> FloatArray:
            vector: FloatArray = own.embed([own.decode(one)])[0]
            return vector

        wanted = [embedded(one) for one in data]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(embedded, data * 4))
        for vector, right in zip(found, wanted * 4, strict=True):
            assert float(vector @ right) > ALIKE, "threads disturb each other"

    def test_what_it_does_not_take_is_refused(self) -> None:
        opened = Encoder.open(self.encoder())
        for data in self.broken:
            ((_, found),) = opened.embed_each([data])
            assert isinstance(found, ImageError), f"{data[:20]!r} is not refused"

    def test_every_file_can_be_shown(self) -> None:
        opened = Encoder.open(self.encoder())
        for data in self._contents():
            assert opened.miniature(data, SIDE).shape == (SIDE, SIDE, 3)

    def test_a_gallery_finds_what_it_holds(self) -> None:
        names = [f"thing {number}" for number in range(len(self.samples))]
        paths: list[Any] = list(self.samples)
        with tempfile.TemporaryDirectory() as place:
            with Gallery.open(place, encoder=self.encoder()) as gallery:
                report = gallery.enroll(paths, labels=names, copy=True)
                assert report.added == len(paths), report.rejected
            with Gallery.open(place, encoder=self.encoder()) as gallery:  # and opened again
                answers = gallery.identify(paths, k=1, threshold=0.0)
                assert [answer.identity for answer in answers] == names
                assert gallery.rebuild(self.encoder()).switched
                assert gallery.check(deep=True) == []

    def _contents(self) -> list[bytes]:
        return [sample.read_bytes() for sample in self.samples]
