"""What the machine could do at best, beside what was measured."""
