"""What a bundle's graph gives on labelled images, in the sessions that production runs; no torch."""
