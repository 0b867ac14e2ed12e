"""Predicted bytes beside the real code on fake tensors."""
