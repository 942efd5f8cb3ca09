"""Load that a service sees: closed loop, Poisson arrivals, streams, offline."""
