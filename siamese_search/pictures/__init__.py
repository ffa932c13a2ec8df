"""Pictures: find them, read them, render them as pixels."""
