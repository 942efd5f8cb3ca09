"""From a trained classifier to a bundle: graph, parity, latency, bundle; one file a station."""
