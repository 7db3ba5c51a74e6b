"""Rescalers: nets that make a picture small and, of the small one and a reference, large again.

A rescaler is whatever has the members of `interface.Rescaler`. `net` is RefScale's conditional flow, `untied` the pair
of a light downscaler and an upscaler of integers, `fgrn` a baseline without a reference; `tiled` runs any of them on
whole pictures. What a new one costs: docs/decisions/interfaces.md.
"""
