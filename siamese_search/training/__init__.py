"""Training: from a folder of pictures per identity to an encoder folder.

``survey`` looks at the pictures and ``plan`` chooses by that, ``data`` finds and decodes,
``sampling`` chooses batches, ``augmentation`` alters them, ``losses`` judge their embeddings,
``loop`` ties them together, ``as_gallery`` says whether that helped and ``outcome`` writes what a
run leaves.
Needs ``pip install 'siamese-search[train]'``. It knows nothing of the command line.
"""
