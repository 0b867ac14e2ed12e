"""The service: queue, page and REST API over the record. Needs the extra `serve`."""
