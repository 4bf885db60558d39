"""What all tests share."""

import signal

from grpc import aio
from hypothesis import HealthCheck, settings

# gRPC stops its poller when its last object dies, and then joins the poller's thread from whatever code the garbage
# collector interrupted, sometimes for ever. One reference that lasts as long as the process keeps the poller.
aio.init_grpc_aio()

# A shell that runs the tests in the background has them ignore SIGINT, and every program that a test starts would
# inherit that; from a handler it does not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that pauses is no error: 200 ms an example, and a second for the first ten draws, are limits of Hypothesis
# that a neighbour's load exceeds. By default every run draws the same examples, so that what passed once passes
# again; `make proof` draws new ones (`--hypothesis-profile search`).
settings.register_profile("repeat", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("repeat"), derandomize=False)
settings.load_profile("repeat")
