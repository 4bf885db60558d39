"""`python -m threefs.compute_kernels.overlap`."""

import sys

from threefs.compute_kernels.overlap.cli import main

sys.exit(main())
