"""The clients of mgmtd: whom they ask, when they give up, that the map never goes back."""

from __future__ import annotations

import asyncio

import pytest

from threefs.client.routing import HeartbeatAgent, MgmtdClient, RoutingClient
from threefs.common.errors import NotPrimary, Timeout, UserError
from threefs.common.ids import NodeId, RoutingVersion
from threefs.common.net.interface import Request
from threefs.common.net.service import bind
from threefs.common.net.simulated import SimulatedNetwork
from threefs.common.routing import Node, NodeStatus, NodeType, Routing
from threefs.common.routing_proto import routing_to_proto
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd

pytestmark = pytest.mark.unit


class FakeMgmtd:
    """Answers what a test sets; counts what it is asked."""

    def __init__(self) -> None:
        self.primary = pb.GetPrimaryReply()
        self.leads = True
        self.routing = Routing(RoutingVersion(1), "c")
        self.asked = 0
        self.registered: list[pb.RegisterNodeRequest] = []
        self.beats: list[pb.HeartbeatRequest] = []
        self.config: pb.ConfigRecord | None = None

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)

        async def refuse(message: object, request: Request) -> object:
            raise NotPrimary("not me")

        return refuse

    async def get_primary(self, message: pb.GetPrimaryRequest, request: Request) -> pb.GetPrimaryReply:
        return self.primary

    async def get_routing(self, message: pb.GetRoutingRequest, request: Request) -> pb.GetRoutingReply:
        self.asked += 1
        if not self.leads:
            raise NotPrimary("not me")
        if message.seen_version == self.routing.version:
            await asyncio.sleep(message.wait_s)
        if message.seen_version == self.routing.version:
            return pb.GetRoutingReply(version=self.routing.version)
        return pb.GetRoutingReply(version=self.routing.version, routing=routing_to_proto(self.routing))

    async def register_node(self, message: pb.RegisterNodeRequest, request: Request) -> pb.RegisterNodeReply:
        self.registered.append(message)
        return pb.RegisterNodeReply(cluster_id="c", timings=pb.Timings(heartbeat_interval_s=0.5, failure_timeout_s=3))

    async def heartbeat(self, message: pb.HeartbeatRequest, request: Request) -> pb.HeartbeatReply:
        self.beats.append(message)
        timings = pb.Timings(heartbeat_interval_s=0.5, failure_timeout_s=3)
        reply = pb.HeartbeatReply(timings=timings, routing_version=self.routing.version)
        if self.config is not None and self.config.version > message.config_version:
            reply.config.CopyFrom(self.config)
        return reply


class Bench:
    def __init__(self) -> None:
        self.simulation = Simulation(1)
        self.network = SimulatedNetwork(self.simulation)
        self.mgmtds = {name: FakeMgmtd() for name in ("a", "b", "c")}
        self.runtime: SimulatedRuntime = self.simulation.runtime("client")
        self.transport = self.network.carrier(self.runtime, "client").transport()

    async def serve(self, *names: str) -> None:
        for name in names:
            carrier = self.network.carrier(self.simulation.runtime(name), name)
            await carrier.server(name, bind(self.mgmtds[name], Mgmtd)).start()

    def client(self, *names: str) -> MgmtdClient:
        return MgmtdClient(self.runtime, self.transport, names)


def test_the_primary_is_found_by_asking() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.serve("a", "b", "c")
        bench.mgmtds["a"].leads = bench.mgmtds["b"].leads = False
        bench.mgmtds["a"].primary = pb.GetPrimaryReply(node=2, address="b")
        bench.mgmtds["b"].primary = pb.GetPrimaryReply(node=3, address="c")
        client = bench.client("a")  # the others are not configured
        assert await client.get_routing(RoutingVersion(0)) is not None
        assert bench.simulation.loop.time() < 0.05
        await client.get_routing(RoutingVersion(0))
        assert [bench.mgmtds[name].asked for name in "abc"] == [1, 1, 2]

    bench.simulation.run(main())


def test_a_dead_one_is_passed_over() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.serve("b")
        assert await bench.client("a", "b").get_routing(RoutingVersion(0)) is not None
        assert bench.simulation.loop.time() < 0.2

    bench.simulation.run(main())


def test_nobody_answers() -> None:
    bench = Bench()

    async def main() -> None:
        with pytest.raises(Timeout, match=r"no primary mgmtd answered at a, b.*is mgmtd running\?"):
            await bench.client("a", "b").get_routing(RoutingVersion(0), timeout_s=3)
        assert 2.9 < bench.simulation.loop.time() < 4

    bench.simulation.run(main())


def test_the_map_never_goes_back_and_waiters_wake() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.serve("a")
        mgmtd = bench.mgmtds["a"]
        mgmtd.routing = Routing(RoutingVersion(7), "c")
        client = RoutingClient(bench.runtime, bench.transport, ["a"])
        await client.start()
        assert client.routing.version == 7
        mgmtd.routing = Routing(RoutingVersion(5), "c")
        assert (await client.refresh()).version == 7
        waiter = bench.runtime.spawn(client.wait_newer(RoutingVersion(7)), name="waiter")
        mgmtd.routing = Routing(RoutingVersion(9), "c")
        await client.wait_for(lambda routing: routing.version == 9, 3)
        assert (await waiter).version == 9
        with pytest.raises(Timeout, match="version 9"):
            await client.wait_for(lambda routing: routing.version > 9, 1)
        await client.stop()

    bench.simulation.run(main())


def test_concurrent_refreshes_share_a_fetch() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.serve("a")
        client = RoutingClient(bench.runtime, bench.transport, ["a"])
        await asyncio.gather(*(client.refresh() for _ in range(20)))
        assert bench.mgmtds["a"].asked <= 2
        asked = bench.mgmtds["a"].asked
        await client.refresh()
        assert bench.mgmtds["a"].asked == asked + 1, "a later call wants what is newer than the call"

    bench.simulation.run(main())


def test_an_agent_reports_at_once_when_poked_and_what_it_thinks_of_a_configuration() -> None:
    bench = Bench()

    def refuse(toml: str, version: int) -> list[str]:
        raise UserError("disk is no number", "give a number")

    async def main() -> None:
        await bench.serve("a")
        mgmtd = bench.mgmtds["a"]
        node = Node(NodeId(5), NodeType.META, NodeStatus.CONNECTING, "m:1")
        agent = HeartbeatAgent(bench.runtime, bench.client("a"), node, on_config=refuse)
        assert agent.is_fenced()
        await agent.start()
        assert not agent.is_fenced()
        assert agent.cluster_id == "c"
        await asyncio.sleep(0.1)
        count = len(mgmtd.beats)
        mgmtd.config = pb.ConfigRecord(node_type=NodeType.META, version=4, toml="disk = 'x'")
        agent.poke()
        await asyncio.sleep(0.01)
        assert len(mgmtd.beats) == count + 1
        agent.poke()
        await asyncio.sleep(0.01)
        newest = mgmtd.beats[-1]
        assert (newest.config_version, newest.config_status) == (4, pb.CONFIG_FAILED)
        assert newest.config_message == "disk is no number; give a number"
        assert [beat.number for beat in mgmtd.beats] == list(range(1, len(mgmtd.beats) + 1))
        await agent.stop()
        assert mgmtd.beats[-1].number == newest.number + 1

    bench.simulation.run(main())


def test_a_node_that_was_cut_off_stays_fenced_until_it_has_the_newest_map() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.serve("a")
        mgmtd = bench.mgmtds["a"]
        routing = RoutingClient(bench.runtime, bench.transport, ["a"])
        await routing.start()
        node = Node(NodeId(5), NodeType.STORAGE, NodeStatus.CONNECTING, "s:1")
        agent = HeartbeatAgent(bench.runtime, bench.client("a"), node, routing=routing)
        await agent.start()
        await routing.stop()  # the long poll hangs
        mgmtd.leads = False  # nor does a refresh get through; heartbeats do
        mgmtd.routing = Routing(RoutingVersion(2), "c")
        await asyncio.sleep(4)
        assert agent.is_fenced()
        mgmtd.leads = True
        await asyncio.sleep(2)
        assert not agent.is_fenced()
        assert routing.routing.version == 2

    bench.simulation.run(main())
