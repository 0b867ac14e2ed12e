"""What runs in the training process: one QLoRA training after another on a resident base model."""
