"""The proof that the graph gives what PyTorch gave, and where it leaves the tolerance if not."""
