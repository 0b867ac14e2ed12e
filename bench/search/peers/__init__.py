"""Strategies of other libraries, one file a library; each is an `adapter.Peer`."""
