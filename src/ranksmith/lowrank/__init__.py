"""Low rank in pure NumPy: statistics of activations, spectra, the factors of each kind, their cost and error.

Start at `factor` (`factors`, `Factorizer`, `KINDS`) and `statistics`.
"""
