"""Many pictures or files in one call, by processes that load the net once; a line of `batch.jsonl` tells of each.

A run that is repeated does what is missing, what failed, and what has changed.
"""
