"""The recipe: its schema, where each value came from, and its reference page."""
