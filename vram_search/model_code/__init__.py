"""Builds a model's module tree from transformers' own class, without weights.

Runs as a process of its own (`python -m vram_search.model_code CONFIG_JSON`), so that estimates
never import torch.
"""
