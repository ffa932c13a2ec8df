"""Evaluation: how well a gallery or an encoder works on labelled pictures, and where it fails."""
