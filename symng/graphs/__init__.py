"""Work on any PyTensor graph: loops, derivatives, rewrites, patterns and flat vectors.

Also what all other folders share: types for signatures, and configuration objects.
"""
