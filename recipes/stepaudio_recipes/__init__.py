"""Training recipes of stepaudio: each is one file, read top to bottom."""
