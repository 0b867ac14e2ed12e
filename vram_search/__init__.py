"""vram-search: the QLoRA configuration with the lowest eval_loss that fits your card."""

__version__ = "0.1.0"
