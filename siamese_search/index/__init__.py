"""The index: nearest neighbours by inner product, and the only user of FAISS.

``search`` puts a base and a delta together, ``segments`` are these two, ``recipes`` say what FAISS
index a base has, ``file`` how it is written and mapped.
"""

from siamese_search.index.file import Written, sha256, write_index
from siamese_search.index.recipes import AUTO, EXACT_RECIPES, RECALL, Wanted
from siamese_search.index.search import SearchIndex

__all__ = [
    "AUTO",
    "EXACT_RECIPES",
    "RECALL",
    "SearchIndex",
    "Wanted",
    "Written",
    "sha256",
    "write_index",
]
