"""What half an hour on one GPU settles: correctness first, then speed, each stage with a JSON of its own."""
