"""`python -m fedjax_comp.audit verify|replay|prove|witness|keygen`: see `--help`."""

import sys

from fedjax_comp.audit.command import main

if __name__ == "__main__":
    sys.exit(main())
