"""Bridges to other packages, imported only when asked for, such as by ``symng.scipy``."""
