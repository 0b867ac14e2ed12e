"""Runs made elsewhere (LLaMA-Factory, Axolotl, plain Trainer, a table by hand) as trials."""
