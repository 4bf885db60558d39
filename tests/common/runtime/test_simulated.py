"""Virtual time: minutes pass at once, crashes end tasks, equal seeds give equal traces."""

import asyncio

import pytest

from threefs.common.errors import ThreefsError, Timeout, Unreachable
from threefs.common.net.interface import Reply, Request
from threefs.common.net.simulated import NetworkFaults, SimulatedNetwork
from threefs.common.runtime.simulated import Simulation, SimulationStuck

pytestmark = pytest.mark.unit


def test_sleeping_takes_no_time_and_keeps_order() -> None:
    simulation = Simulation(1)
    order: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((name, simulation.loop.time()))

    async def main() -> None:
        await asyncio.gather(sleeper("b", 600.0), sleeper("a", 5.0))

    simulation.run(main())
    assert order == [("a", 5.0), ("b", 600.0)]


def test_waiting_for_nothing_is_reported() -> None:
    simulation = Simulation(1)
    with pytest.raises(SimulationStuck):
        simulation.run(_forever())


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_failed_task_fails_the_run() -> None:
    simulation = Simulation(1)
    runtime = simulation.runtime("node")

    async def broken() -> None:
        raise ValueError("boom")

    async def main() -> None:
        runtime.spawn(broken(), name="broken")
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="seed 1: task node/broken failed: ValueError: boom"):
        simulation.run(main())


def _run(seed: int, faults: NetworkFaults) -> tuple[str, dict[str, int]]:
    simulation = Simulation(seed)
    network = SimulatedNetwork(simulation, faults)
    results: dict[str, int] = {"ok": 0, "failed": 0}

    async def echo(request: Request) -> Reply:
        await asyncio.sleep(0.001)
        return Reply(request.body, [request.data])

    async def client(number: int) -> None:
        runtime = simulation.runtime(f"client-{number}")
        transport = network.carrier(runtime, runtime.name).transport()
        for turn in range(50):
            target = memoryview(bytearray(4))
            try:
                await transport.call("server:1", 7, b"x", [b"abcd"], timeout_s=1, scatter=lambda _b, _n, t=target: [t])
                assert bytes(target) == b"abcd"
                results["ok"] += 1
            except (Timeout, Unreachable):
                results["failed"] += 1
            simulation.record(f"client {number} turn {turn}")

    async def main() -> None:
        server = simulation.runtime("server")
        await network.carrier(server, "server").server("server:1", {7: echo}).start()
        await asyncio.gather(*(client(number) for number in range(3)))

    simulation.run(main())
    return simulation.digest(), results


def test_equal_seeds_give_equal_traces() -> None:
    faults = {"loss": 0.1, "slow": 0.1}
    assert _run(7, NetworkFaults(**faults)) == _run(7, NetworkFaults(**faults))
    assert _run(7, NetworkFaults(**faults))[0] != _run(8, NetworkFaults(**faults))[0]


def test_a_healthy_network_loses_nothing_and_a_lossy_one_does() -> None:
    assert _run(3, NetworkFaults())[1] == {"ok": 150, "failed": 0}
    assert _run(3, NetworkFaults(loss=0.2))[1]["failed"] > 10


def test_crash_ends_handlers_and_cut_links_time_out() -> None:
    simulation = Simulation(5)
    network = SimulatedNetwork(simulation)
    reached: list[str] = []

    async def slow(request: Request) -> Reply:
        await asyncio.sleep(10)
        reached.append("end")
        return Reply()

    async def main() -> None:
        server, client = simulation.runtime("server"), simulation.runtime("client")
        await network.carrier(server, "server").server("server:1", {7: slow}).start()
        transport = network.carrier(client, "client").transport()
        call = client.spawn(_outcome(transport.call("server:1", 7, b"", timeout_s=30)), name="call")
        await asyncio.sleep(1)
        server.crash()
        assert isinstance(await call, Timeout | Unreachable)
        assert isinstance(await _outcome(transport.call("server:1", 7, b"", timeout_s=1)), Unreachable)
        network.cut("client", "server")
        assert isinstance(await _outcome(transport.call("server:1", 7, b"", timeout_s=1)), Timeout | Unreachable)

    simulation.run(main())
    assert reached == []


async def _outcome(call: asyncio.Future[Reply] | object) -> object:
    try:
        return await call  # type: ignore[misc]
    except ThreefsError as exc:
        return exc
