"""The index: nearest neighbours by inner product, and the only user of FAISS.

``contract`` is what a gallery asks, ``engine`` what it gets: ``search`` puts a base and a delta
together, ``segments`` are these two, ``recipes`` say what FAISS index a base has, ``file`` how it
is written and mapped. Knows nothing of identities, SQL or pictures.
"""

from siamese_search.index.contract import AUTO, RECALL, Engine, Index, Previous, Wanted, Written
from siamese_search.index.engine import FaissEngine
from siamese_search.index.file import sha256, write_index
from siamese_search.index.search import SearchIndex

__all__ = [
    "AUTO",
    "RECALL",
    "Engine",
    "FaissEngine",
    "Index",
    "Previous",
    "SearchIndex",
    "Wanted",
    "Written",
    "sha256",
    "write_index",
]
