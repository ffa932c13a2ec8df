"""``python -m siamese_search`` is ``siasearch``."""

from siamese_search.cli import main

if __name__ == "__main__":
    main()
