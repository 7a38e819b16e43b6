"""Work on any PyTensor graph: loops, derivatives, rewrites, patterns, flat vectors. Nothing here knows a model."""
