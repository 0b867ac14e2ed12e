"""Stands in for LLaMA-Factory where `verify` looks at it: its rows, its command and its log."""
