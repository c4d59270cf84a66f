"""`python -m cckt` and `torchrun -m cckt`: the command line."""

from __future__ import annotations

from cckt.cli import main

if __name__ == "__main__":
    main()
