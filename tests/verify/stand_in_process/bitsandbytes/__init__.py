"""The part of bitsandbytes that `trainer_run` changes."""
