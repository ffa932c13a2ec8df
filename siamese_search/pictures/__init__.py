"""Pictures: finding them, reading them, and their regions."""
