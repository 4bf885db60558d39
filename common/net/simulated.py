"""The simulated network: messages between simulated processes, lost, delayed, reordered and cut by seed.

It keeps what TCP keeps: a message arrives whole, once or never; a caller whose connection breaks learns it
(`Unreachable`) or not (`Timeout`). Delays are drawn for each message, so messages overtake one another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
        self._slow_links: dict[tuple[str, str], float] = {}

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

    def slow_down(self, source: str, target: str, up_to_s: float) -> None:
        """Everything that `source` sends to `target` takes up to so long, each message its own time; 0: no more."""
        if up_to_s:
            self._slow_links[source, target] = up_to_s
        else:
            self._slow_links.pop((source, target), None)

    def heal(self) -> None:
        """Ends all partitions, and makes all links fast."""
        self._cuts.clear()
        self._slow_links.clear()

    def carry(self, source: str, target: str, arrive: Callable[[bool], None]) -> None:
        """One message: `arrive` is called when it has taken its time, with False if it is lost. It needs its sender no
        more: what a process has sent arrives although it crashes."""
        random, faults = self.simulation.random, self.faults
        delay_s = random.uniform(faults.delay_s_min, faults.delay_s_max)
        slow_s = self._slow_links.get((source, target)) or (random.random() < faults.slow and faults.slow_s_max)
        if slow_s:
            self.counts["slow"] += 1
            delay_s = random.uniform(0, slow_s)
        lost = random.random() < faults.loss
        self.simulation.loop.call_later(delay_s, self._land, source, target, lost, arrive)

    def _land(self, source: str, target: str, lost: bool, arrive: Callable[[bool], None]) -> None:
        cut = (source, target) in self._cuts
        self.counts["cut" if cut else "lost" if lost else "delivered"] += 1
        arrive(not (cut or lost))


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
        loop = self._network.simulation.loop
        answer: asyncio.Future[Reply] = loop.create_future()
        request = Request(method, body, memoryview(b"".join(data)), self._carrier.host, timeout_s)
        _Exchange(self._carrier, address, request, answer).begin()
        limit = loop.call_later(timeout_s, _expire, answer)
        try:
            reply = await answer
        except TimeoutError as exc:
            raise Timeout(f"{address} did not answer method {method:#06x} within {timeout_s:g} s") from exc
        finally:
            limit.cancel()
            if not answer.done():
                answer.cancel()
            elif not answer.cancelled():
                answer.exception()  # taken note of, though the caller has gone
        return deliver(reply, scatter)

    async def close(self) -> None:
        pass


def _expire(answer: asyncio.Future[Reply]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


class _Exchange:
    """One request on its way there, and its answer on its way back; the caller may be gone by then."""

    __slots__ = ("_address", "_answer", "_carrier", "_network", "_outcome", "_request", "_there")

    def __init__(
        self, carrier: SimulatedCarrier, address: str, request: Request, answer: asyncio.Future[Reply]
    ) -> None:
        self._carrier = carrier
        self._network = carrier.network
        self._address = address
        self._request = request
        self._answer = answer
        server = self._network.servers.get(address)
        self._there = server.carrier.host if server else address
        self._outcome: Reply | ThreefsError | None = None

    def begin(self) -> None:
        self._network.carry(self._carrier.host, self._there, self._arrive)

    def _arrive(self, arrived: bool) -> None:
        if not arrived:
            return self._break()
        network, request = self._network, self._request
        server = network.servers.get(self._address)
        if server is None or not server.carrier.runtime.alive:
            network.counts["refused"] += 1
            return self._settle(Refused(f"{self._address} refuses connections"))
        size = f"{len(request.body)}+{len(request.data)}"
        network.simulation.record(f"{self._carrier.host} > {self._there} {request.method:#06x} {size}")
        server.carrier.runtime.spawn(self._serve(server), name="serve")
        return None

    async def _serve(self, server: SimulatedServer) -> None:
        """Runs the handler; nothing goes back if its process crashes meanwhile."""
        try:
            handler = server.handlers.get(self._request.method)
            if handler is None:
                raise Unsupported(f"method {self._request.method:#06x} is not served at {server.address}")
            reply = await handler(self._request)
            self._outcome = Reply(reply.body, [bytes(part) for part in reply.data])
        except ThreefsError as exc:
            self._outcome = from_wire(*to_wire(exc))
        except Exception as exc:
            server.carrier.network.simulation.fail(f"handler {self._request.method:#06x} on {server.address}", exc)
        finally:
            if self._outcome is None or not server.carrier.runtime.alive:
                self._break()
            else:
                self._network.carry(self._there, self._carrier.host, self._return)

    def _return(self, arrived: bool) -> None:
        if not arrived or self._outcome is None:
            return self._break()
        return self._settle(self._outcome)

    def _break(self) -> None:
        """A lost message breaks the connection: half of the callers notice soon, the others time out."""
        if self._network.simulation.random.random() < 0.5:
            broken = Unreachable(f"connection to {self._address} broke")
            self._network.simulation.loop.call_later(0.01, self._settle, broken)

    def _settle(self, outcome: Reply | ThreefsError) -> None:
        if self._answer.done():
            return
        if isinstance(outcome, Reply):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)
