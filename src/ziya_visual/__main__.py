"""Run the command line as ``python -m ziya_visual``."""

from ziya_visual.cli.app import main

if __name__ == "__main__":
    main()
