"""The fused graph: towers to nodes, preprocessing, precisions as transforms of the graph."""
