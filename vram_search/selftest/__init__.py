"""Tests on this machine what a search relies on, in about two minutes: `vram-search selftest`."""
