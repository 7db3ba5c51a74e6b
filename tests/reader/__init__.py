"""A reader of `.rsc` files written from docs/FORMAT.md and docs/NETWORK.md alone, to prove that they are enough.

It uses nothing of refscale but data files (weights, `tables.npz`): only the standard library, numpy, torch, and Pillow
for lossless WebP planes. Where the documents say "MUST refuse", it raises a ValueError; of these checks it has those
that notice a fault of its own, not all that a reader must make.
"""
