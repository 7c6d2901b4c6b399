"""`python -m rootless.cli`: the command line without the script."""

import sys

from rootless.cli import main

sys.exit(main())
