"""Passes events of the record on: messages to people, and finished trials to trackers."""
