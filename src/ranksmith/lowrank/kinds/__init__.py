"""One decomposition a file. Each says which factors it makes, what it needs and how large its full rank is.

All work on a layer of one group; `grouped` lifts them to grouped Convs.
"""
