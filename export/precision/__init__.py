"""How a graph is rounded: overflow in half, ranges, fake quantisation, references in reduced precision."""
