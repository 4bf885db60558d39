"""The simulated network: messages between simulated processes, lost, delayed, reordered and cut by seed.

It keeps what TCP keeps: a message arrives whole, once or never; a caller whose connection breaks learns it
(`Unreachable`) or not (`Timeout`). Delays are drawn for each message, so messages overtake one another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from threefs.common.errors import Refused, ThreefsError, Timeout, Unreachable, Unsupported, from_wire, to_wire
from threefs.common.net.interface import Buffer, Carrier, Handler, Reply, Request, Scatter, Server, Transport
from threefs.common.net.loopback import deliver
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation


@dataclass(slots=True)
class NetworkFaults:
    """What goes wrong; changed while the simulation runs (all zero: a healed network)."""

    loss: float = 0.0  # chance that a message never arrives
    delay_s_min: float = 0.0001
    delay_s_max: float = 0.001
    slow: float = 0.0  # chance of a message that takes up to slow_s_max
    slow_s_max: float = 2.0


class SimulatedNetwork:
    """All hosts of one simulation. `cut` and `heal` make partitions, in one direction or both."""

    def __init__(self, simulation: Simulation, faults: NetworkFaults | None = None) -> None:
        self.simulation = simulation
        self.faults = faults or NetworkFaults()
        self.servers: dict[str, SimulatedServer] = {}
        self.counts: Counter[str] = Counter()  # lost, slow, cut, refused, delivered
        self._cuts: dict[tuple[str, str], None] = {}

    def carrier(self, runtime: SimulatedRuntime, host: str) -> SimulatedCarrier:
        return SimulatedCarrier(self, runtime, host)

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Nothing that `source` sends reaches `target` any more (`both`: nor back)."""
        self._cuts[source, target] = None
        if both:
            self._cuts[target, source] = None

    def mend(self, source: str, target: str, *, both: bool = True) -> None:
        """Undoes one `cut`."""
        self._cuts.pop((source, target), None)
        if both:
            self._cuts.pop((target, source), None)

    def heal(self) -> None:
        """Ends all partitions."""
        self._cuts.clear()

    async def travel(self, source: str, target: str) -> bool:
        """Waits as long as one message takes; False if it never arrives."""
        random, faults = self.simulation.random, self.faults
        delay_s = random.uniform(faults.delay_s_min, faults.delay_s_max)
        if random.random() < faults.slow:
            self.counts["slow"] += 1
            delay_s = random.uniform(0, faults.slow_s_max)
        lost = random.random() < faults.loss
        await asyncio.sleep(delay_s)
        if (source, target) in self._cuts:
            self.counts["cut"] += 1
            return False
        self.counts["lost" if lost else "delivered"] += 1
        return not lost


class SimulatedCarrier(Carrier):
    """One process's place in the network."""

    def __init__(self, network: SimulatedNetwork, runtime: SimulatedRuntime, host: str) -> None:
        self.network = network
        self.runtime = runtime
        self.host = host

    def transport(self) -> Transport:
        return SimulatedTransport(self)

    def server(self, listen: str, handlers: Mapping[int, Handler]) -> Server:
        return SimulatedServer(self, listen, handlers)


class SimulatedServer(Server):
    def __init__(self, carrier: SimulatedCarrier, listen: str, handlers: Mapping[int, Handler]) -> None:
        self.carrier = carrier
        self.handlers = handlers
        self.address = listen

    async def start(self) -> None:
        self.carrier.network.servers[self.address] = self

    async def close(self) -> None:
        if self.carrier.network.servers.get(self.address) is self:
            del self.carrier.network.servers[self.address]


class SimulatedTransport(Transport):
    def __init__(self, carrier: SimulatedCarrier) -> None:
        self._carrier = carrier
        self._network = carrier.network

    async def call(
        self,
        address: str,
        method: int,
        body: bytes,
        data: Sequence[Buffer] = (),
        *,
        timeout_s: float,
        scatter: Scatter | None = None,
    ) -> Reply:
        self._carrier.runtime.check_alive()
        request = Request(method, body, memoryview(b"".join(data)), self._carrier.host, timeout_s)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        courier = self._carrier.runtime.spawn(self._exchange(address, request, answer), name=f"call {method:#06x}")
        try:
            async with asyncio.timeout(timeout_s):
                reply = await answer
        except TimeoutError as exc:
            raise Timeout(f"{address} did not answer method {method:#06x} within {timeout_s:g} s") from exc
        finally:
            if not courier.done() and not answer.done():
                answer.cancel()
        return deliver(reply, scatter)

    async def _exchange(self, address: str, request: Request, answer: asyncio.Future[Reply]) -> None:
        """Carries a request there and its answer back; the caller may be gone by then."""
        network, here = self._network, self._carrier.host
        server = network.servers.get(address)
        there = server.carrier.host if server else address
        arrived = self._carrier.runtime.alive and await network.travel(here, there)
        server = network.servers.get(address)
        if not arrived:
            return await self._break(answer, address)
        if server is None or not server.carrier.runtime.alive:
            network.counts["refused"] += 1
            return self._settle(answer, Refused(f"{address} refuses connections"))
        network.simulation.record(f"{here} > {there} {request.method:#06x} {len(request.body)}+{len(request.data)}")
        outcome = await self._serve(server, request)
        if outcome is None or not await network.travel(there, here):
            return await self._break(answer, address)
        return self._settle(answer, outcome)

    async def _serve(self, server: SimulatedServer, request: Request) -> Reply | ThreefsError | None:
        """What the handler answered; None if its process crashed meanwhile."""
        done: asyncio.Future[Reply | ThreefsError | None] = asyncio.get_running_loop().create_future()

        async def handle() -> None:
            outcome: Reply | ThreefsError | None = None
            try:
                handler = server.handlers.get(request.method)
                if handler is None:
                    raise Unsupported(f"method {request.method:#06x} is not served at {server.address}")
                reply = await handler(request)
                outcome = Reply(reply.body, [bytes(part) for part in reply.data])
            except ThreefsError as exc:
                outcome = from_wire(*to_wire(exc))
            except Exception as exc:
                server.carrier.network.simulation.fail(f"handler {request.method:#06x} on {server.address}", exc)
            finally:
                if not done.done():
                    done.set_result(outcome if server.carrier.runtime.alive else None)

        server.carrier.runtime.spawn(handle(), name=f"serve {request.method:#06x}")
        return await done

    async def _break(self, answer: asyncio.Future[Reply], address: str) -> None:
        """A lost message breaks the connection: half of the callers notice soon, the others time out."""
        if self._network.simulation.random.random() < 0.5:
            await asyncio.sleep(0.01)
            self._settle(answer, Unreachable(f"connection to {address} broke"))

    def _settle(self, answer: asyncio.Future[Reply], outcome: Reply | ThreefsError) -> None:
        if answer.done():
            return
        if isinstance(outcome, Reply):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    async def close(self) -> None:
        pass
