"""REST: the Open Inference Protocol, and a plain endpoint for people."""
