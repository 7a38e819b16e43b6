"""Work on any PyTensor graph: loops, derivatives, rewrites, patterns and flat vectors."""
