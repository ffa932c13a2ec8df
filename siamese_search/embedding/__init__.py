"""Embedding: from pictures to vectors, by an encoder."""
