"""Which layers to decompose, how far, and how far to go: options, exact allocation, the choice of a plan.

Nothing here measures: times come in as numbers, evaluation as a callable.
"""
