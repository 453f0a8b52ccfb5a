"""python -m minidrop."""

from minidrop.cli import main

if __name__ == "__main__":
    main()
