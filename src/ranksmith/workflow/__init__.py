"""What the verbs do, end to end: the only package that knows all the others.

`source` resolves MODEL; `statistics` gathers what the data say about each Conv; `spectrum`, `sweep` and
`decompose` are the analyses; `compress` is the main job, in a package of its own.
"""
