"""A reader of `.rsc` files written from docs/FORMAT.md and docs/NETWORK.md alone, to prove that they are enough.

It uses nothing of refscale but data files (weights, `tables.npz`): only the standard library, numpy, torch, and Pillow
for lossless WebP planes. Where the documents say "MUST refuse", it raises a ValueError; it checks what shows that it has
decoded something else than was written, not all that a reader must.
"""
