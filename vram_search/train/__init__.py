"""The training process: runs one QLoRA training after another on a resident base model."""
