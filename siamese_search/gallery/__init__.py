"""The gallery: one room a task; ``gallery.py`` is the face."""
