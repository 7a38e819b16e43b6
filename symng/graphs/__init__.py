"""Work on any PyTensor graph: loops, derivatives, rewrites, patterns and flat vectors.

Beside it, because the rooms above share them: the types of signatures, and configuration objects.
"""
