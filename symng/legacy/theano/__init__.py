"""What `import theano` brings after `symng.legacy.install_theano`.

One file for each part of Theano whose behavior differs from PyTensor's. `_namespace` makes the
modules that a script sees out of them; whatever else a script asks for is PyTensor's own.
"""
