"""Which precision is the fastest within the budget of accuracy."""
