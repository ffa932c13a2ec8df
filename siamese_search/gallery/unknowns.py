"""Unknowns: probes that nobody fitted, kept until a person gives them a name.

They are grouped by average linkage (Sokal and Michener 1958) of their cosines, down to the
encoder's threshold. After a rebuild they are embedded again from their files.
"""

from __future__ import annotations

import os

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError
from siamese_search.gallery.active import require
from siamese_search.gallery.identification import Identifier
from siamese_search.pictures.read import content_hash, file_fault, read_file
from siamese_search.records import Generation, UnknownGroup
from siamese_search.storage.catalog import Catalog

MOST = 2000  # that are grouped, the latest ones: linkage takes their square in memory


def keep(catalog: Catalog, path: str, vector: FloatArray, generation: Generation) -> None:
    """Keep a probe, a file, with its embedding (dimension,) in a generation.

    Raises ImageError where the file is gone, GalleryMismatch where the generation is not active.
    """
    content = content_hash(read_file(path))
    catalog.keep_unknown(content, os.path.abspath(path), generation, vector)


def groups(catalog: Catalog, encoder: Encoder, identifier: Identifier) -> list[UnknownGroup]:
    """The kept probes in groups, the largest first."""
    generation = catalog.state().generation
    numbers, paths, vectors = [], [], []
    require(encoder, generation, catalog.path.parent)
    for number, content, path, made, vector in catalog.unknowns()[-MOST:]:
        if made != generation.number:
            # It cannot be compared, nor enrolled, while its file is gone.
            if file_fault(path, content):
                continue
            try:
                (vector,) = encoder.embed([path])
            except ImageError:
                continue
            catalog.keep_unknown(content, path, generation, vector)
        numbers.append(number)
        paths.append(path)
        vectors.append(vector)
    if not numbers:
        return []
    stacked = np.stack(vectors).astype(np.float32)
    found = []
    for members in linked(stacked, encoder.threshold):
        own = stacked[members]
        centre = own.mean(axis=0)
        centre /= max(float(np.linalg.norm(centre)), 1e-6)
        order = [members[place] for place in np.argsort(-(own @ centre), kind="stable").tolist()]
        (answer,) = identifier.identify(encoder, centre[None], 1, 1.0, None)
        found.append(
            UnknownGroup(
                number=min(numbers[member] for member in members),
                members=tuple(numbers[member] for member in order),
                paths=tuple(paths[member] for member in order),
                nearest=answer.matches[0] if answer.matches else None,
            )
        )
    return sorted(found, key=lambda group: (-len(group.members), group.number))


def linked(vectors: FloatArray, threshold: float) -> list[list[int]]:
    """Positions of unit vectors (n, dimension) in groups whose mean cosines reach a threshold."""
    count = len(vectors)
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    sizes = np.ones(count)
    members = {position: [position] for position in range(count)}
    while count > 1:
        place = int(cosines.argmax())
        first, second = sorted(divmod(place, count))
        if cosines[first, second] < threshold:
            break
        # Lance and Williams 1967: the mean over all pairs of the two groups and each other one.
        together = sizes[first] + sizes[second]
        mean = (sizes[first] * cosines[first] + sizes[second] * cosines[second]) / together
        cosines[first], cosines[:, first] = mean, mean
        cosines[first, first] = -np.inf
        cosines[second], cosines[:, second] = -np.inf, -np.inf
        sizes[first] = together
        members[first] += members.pop(second)
    return list(members.values())
