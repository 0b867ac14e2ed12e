"""Traces a training on fake tensors, in a process of its own: bytes of any model without a GPU."""
