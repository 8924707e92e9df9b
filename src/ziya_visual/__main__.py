"""``python -m ziya_visual``."""

from ziya_visual.cli import main

if __name__ == "__main__":
    main()
