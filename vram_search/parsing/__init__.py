"""Parses text from strangers: every fault of a YAML or JSON text is one ParseError."""
