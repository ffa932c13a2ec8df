"""``python -m siamese_search`` is ``siasearch``."""

from siamese_search.cli import main
from siamese_search.processes import end_without_what_is_needed

if __name__ == "__main__":
    end_without_what_is_needed()
    main()
