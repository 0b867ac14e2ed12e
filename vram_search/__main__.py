"""`python -m vram_search`."""

from vram_search.cli.main import main

if __name__ == "__main__":
    main()
