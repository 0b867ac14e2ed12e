"""Traces a training on fake tensors: the bytes of any model without a GPU.

Runs as a process of its own (`python -m vram_search.trace`), so that estimates never import torch.
"""
