"""Token-Superposition Training on PyTorch Lightning.

Importing the package imports nothing heavy; take what you need from its modules:
``bags`` (the idea), ``losses``, ``schedule``, ``module``, ``data``, ``evaluation``, ``comparison``.
"""

__version__ = "0.1.0"
