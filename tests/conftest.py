"""What all tests share."""

from grpc import aio

# gRPC stops its poller when its last object dies, and then joins the poller's thread from whatever code the garbage
# collector interrupted, sometimes for ever. One reference that lasts as long as the process keeps the poller.
aio.init_grpc_aio()
