"""Predicts the bytes of one training: persistent tensors, live bytes over time, the allocator."""
