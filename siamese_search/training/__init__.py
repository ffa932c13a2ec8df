"""Training: from a folder of pictures per identity to an encoder folder.

``data`` finds and decodes, ``sampling`` chooses batches, ``augmentation`` alters them, ``losses``
judge their embeddings, ``loop`` ties them together and ``outcome`` writes what a run leaves.
Needs ``pip install 'siamese-search[train]'``. It knows nothing of the command line.
"""
