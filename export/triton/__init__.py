"""A bundle as a model repository for Triton Inference Server, and what KServe is told to serve it."""
