"""The run folder: training writes it, exports and reports read it."""
