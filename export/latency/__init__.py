"""How fast a bundle is on this machine: measured, compared, held against the machine's limit, and tuned.

Only ``reference_runners``, and what needs a run, imports torch: the rest runs on a production host.
"""
