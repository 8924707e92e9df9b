"""``python -m ziya_visual``."""

from ziya_visual.cli import main

main()
