"""`python -m ranksmith`."""

from ranksmith.cli import main

if __name__ == "__main__":
    main()
