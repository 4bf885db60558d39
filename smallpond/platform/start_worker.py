"""The program that a platform starts on a node: `python start_worker.py --queue DIR …`, options as the worker's.

Platforms start files, not modules: this one takes its own folder off the path, so that its neighbours hide nothing.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)
    from threefs.smallpond.executors.worker import main

    main()
