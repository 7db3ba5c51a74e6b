"""Predictive coding of the samples themselves, at full size: without loss, or with a bound on the error.

Each sample is predicted from those before it, earlier planes and the reference, by coefficients that the encoder fits
and the payload begins with (as MRP, TMW and Vanilc do; Ulacha and Stasinski 2008, Weinlich et al. 2016). What is coded
is its distance from the prediction, in steps of one level for lossless, in wider ones for a bound (near-lossless, as
JPEG-LS).

`neighbourhood` says what a sample is predicted from, `scan` runs through a plane in wavefronts, for encoder and decoder
alike, `distributions` holds the probabilities around a prediction, `residuals` codes a wavefront, `fitting` fits the
coefficients, `codec` codes pictures. All arithmetic between payload and samples is on whole numbers.
"""
