"""Scripts that read as a story; the library holds the loops."""
