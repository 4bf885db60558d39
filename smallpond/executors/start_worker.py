"""The program that a platform starts on a node: `python start_worker.py --queue DIR …`, options as the worker's.

Platforms start files, not modules: this one takes its own folder off the path first, where `ray.py` would hide Ray.
"""

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    from threefs.smallpond.executors.worker import main

    main()
