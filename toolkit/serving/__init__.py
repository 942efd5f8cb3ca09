"""A bundle at work: sessions side by side, the queue in front of them, predictions; no torch."""
