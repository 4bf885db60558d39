"""Whole mgmtd daemons on virtual time: registration, silence, recovery, takeover, long polls, admin calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from threefs.common.errors import BadRequest, Conflict, NotFound
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, NodeId, TargetId
from threefs.common.routing import LocalState, NodeStatus, NodeType, PublicState, Routing
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd

if TYPE_CHECKING:
    from tests.mgmtd.conftest import MiniCluster

pytestmark = pytest.mark.unit


def states(routing: Routing, chain: int = 1) -> dict[int, str]:
    found = routing.chains[ChainId(chain)]
    return {target: state.name for target, state in zip(found.targets, found.states, strict=True)}


def all_serving(routing: Routing) -> bool:
    return set(states(routing).values()) == {"SERVING"}


def test_a_killed_daemon_leaves_the_chain_and_comes_back(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        killed_at = mini.simulation.loop.time()
        mini.crash("storage12")
        routing = await watcher.wait_for(lambda r: "OFFLINE" in states(r).values(), 10)
        pause_s = mini.simulation.loop.time() - killed_at
        assert 1.3 < pause_s < 2.1, f"declared dead after {pause_s} s"
        assert states(routing) == {101: "SERVING", 103: "SERVING", 102: "OFFLINE"}
        assert routing.nodes[NodeId(12)].status is NodeStatus.FAILED
        await mini.daemon(12, 102).start()
        routing = await watcher.wait_for(all_serving, 2)
        assert routing.chains[ChainId(1)].targets == (101, 103, 102)
        assert routing.nodes[NodeId(12)].status is NodeStatus.CONNECTED

    mini.run(main)


def test_a_daemon_that_is_cut_off_has_time_until_it_has_surely_fenced_itself(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        await mini.network.carrier(mini.runtimes["storage12"], "storage12").server("storage12:1", {}).start()
        cut_at = mini.simulation.loop.time()
        mini.network.cut("storage12", "mgmtd1")
        await asyncio.sleep(2.3)
        assert mini.daemons[12].agent.is_fenced()
        assert all_serving(watcher.routing)
        await watcher.wait_for(lambda r: "OFFLINE" in states(r).values(), 10)
        pause_s = mini.simulation.loop.time() - cut_at
        assert 2.4 < pause_s < 3.3, f"declared dead after {pause_s} s"

    mini.run(main)


def test_a_daemon_restarted_at_once_has_to_resync(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        seen: list[dict[int, str]] = []
        mini.crash("storage11")
        await mini.daemon(11, 101).start()
        version = watcher.routing.version
        while not (all_serving(watcher.routing) and watcher.routing.chains[ChainId(1)].targets[-1] == 101):
            version = (await watcher.wait_newer(version)).version
            seen.append(states(watcher.routing))
        assert {101: "SYNCING", 102: "SERVING", 103: "SERVING"} in seen
        assert mini.simulation.loop.time() < 2

    mini.run(main)


def test_a_whole_cluster_restart_serves_again_with_one_last_target(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.with_chain()
        for host in list(mini.runtimes):
            mini.crash(host)
        await asyncio.sleep(60)
        begun_at = mini.simulation.loop.time()
        await mini.start_mgmtd()
        for node in (11, 12, 13):
            await mini.daemon(node, 90 + node).start()
        watcher = await mini.routing_client()
        await watcher.wait_for(all_serving, 10)
        assert mini.simulation.loop.time() - begun_at < 3

    mini.run(main)


def test_a_restart_without_one_daemon_serves_with_the_others(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.with_chain()
        for host in list(mini.runtimes):
            mini.crash(host)
        await mini.start_mgmtd()
        await mini.daemon(12, 102).start()
        await mini.daemon(13, 103).start()
        watcher = await mini.routing_client()
        routing = await watcher.wait_for(lambda r: list(states(r).values()).count("SERVING") == 2, 10)
        assert states(routing)[101] == "OFFLINE"

    mini.run(main)


def test_a_new_primary_changes_no_chain_before_it_has_heard(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        version = watcher.routing.chains[ChainId(1)].version
        mini.crash("mgmtd1")
        await asyncio.sleep(120)
        assert all(daemon.agent.is_fenced() for daemon in mini.daemons.values())
        await mini.start_mgmtd()
        await asyncio.sleep(10)
        assert watcher.routing.chains[ChainId(1)].version == version
        assert not any(daemon.agent.is_fenced() for daemon in mini.daemons.values())

    mini.run(main)


def test_the_other_mgmtd_takes_over(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        await mini.start_mgmtd(2)
        routing = await watcher.wait_for(lambda r: NodeId(2) in r.nodes, 5)
        assert routing.nodes[NodeId(2)].type is NodeType.MGMTD
        assert not mini.mgmtds[2].cluster.leads
        mini.crash("mgmtd1")
        killed_at = mini.simulation.loop.time()
        await watcher.wait_for(lambda r: r.nodes[NodeId(2)].status is NodeStatus.PRIMARY, 8)
        assert mini.simulation.loop.time() - killed_at < 6
        await asyncio.sleep(10)
        assert all_serving(watcher.routing)
        assert not any(daemon.agent.is_fenced() for daemon in mini.daemons.values())
        await mini.client().set_node_tags(NodeId(11), ["rack-1"])
        await mini.mgmtds[2].stop()
        await mini.start_mgmtd(1)
        routing = await watcher.wait_for(lambda r: r.nodes[NodeId(1)].status is NodeStatus.PRIMARY, 3)
        assert routing.nodes[NodeId(11)].tags == ("rack-1",)

    mini.run(main)


def test_a_primary_that_is_cut_off_from_the_store_answers_nothing(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        await mini.start_mgmtd(2)
        await watcher.wait_for(lambda r: NodeId(2) in r.nodes, 5)
        mini.mgmtds[1].cluster.store.engine.disconnect()  # type: ignore[attr-defined]
        await watcher.wait_for(lambda r: r.nodes[NodeId(2)].status is NodeStatus.PRIMARY, 8)
        assert not mini.mgmtds[1].cluster.leads
        assert not mini.mgmtds[1].lease.is_valid()
        await asyncio.sleep(5)
        assert all_serving(watcher.routing)

    mini.run(main)


def test_a_change_reaches_pollers_in_milliseconds(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        await asyncio.sleep(7)
        changed_at = mini.simulation.loop.time()
        await mini.client().set_node_tags(NodeId(11), ["a"])
        await watcher.wait_for(lambda r: r.nodes[NodeId(11)].tags == ("a",), 1)
        assert mini.simulation.loop.time() - changed_at < 0.01

    mini.run(main)


def test_a_daemon_that_cannot_reach_mgmtd_is_fenced_before_it_is_dead(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        mini.network.cut("storage12", "mgmtd1")
        agent = mini.daemons[12].agent
        while not agent.is_fenced():
            assert all_serving(watcher.routing)
            await asyncio.sleep(0.01)
        assert all_serving(watcher.routing)
        await watcher.wait_for(lambda r: states(r)[102] == "OFFLINE", 5)
        mini.network.heal()
        await watcher.wait_for(all_serving, 5)
        assert not agent.is_fenced()

    mini.run(main)


def test_reports_under_an_old_chain_version_are_ignored(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        agent = mini.daemons[12].agent

        async def report(local: LocalState, version: int) -> None:
            entry = pb.TargetReport(target=102, local=local, chain_version=version)
            agent._number += 1
            message = pb.HeartbeatRequest(
                node=12, incarnation=agent._incarnation, number=agent._number, targets=[entry]
            )
            await mini.client().call(Mgmtd.HEARTBEAT, message)

        await report(LocalState.OFFLINE, 0)
        assert watcher.routing.chains[ChainId(1)].version == 1
        await report(LocalState.OFFLINE, 1)
        await watcher.wait_for(lambda r: states(r)[102] == "OFFLINE", 1)

    mini.run(main)


def test_an_outdated_incarnation_is_refused(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.with_chain()
        old = mini.daemons[12].agent
        await mini.daemon(12, 102).start()
        await asyncio.sleep(5)
        assert old.is_fenced()
        assert not mini.daemons[12].agent.is_fenced()

    mini.run(main)


def test_another_clusters_daemon_is_refused(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.start_mgmtd()
        with pytest.raises(BadRequest, match="belongs to cluster elsewhere"):
            await mini.daemon(11, cluster_id="elsewhere").start()

    mini.run(main)


def test_disabling_a_node_is_as_if_it_were_down(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        client = mini.client()
        await client.disable_node(NodeId(11))
        await asyncio.sleep(5)
        assert states(watcher.routing) == {102: "SERVING", 103: "SERVING", 101: "OFFLINE"}
        assert watcher.routing.nodes[NodeId(11)].status is NodeStatus.DISABLED
        await client.enable_node(NodeId(11))
        await watcher.wait_for(all_serving, 5)
        with pytest.raises(NotFound, match="no node 99"):
            await client.enable_node(NodeId(99))

    mini.run(main)


def test_targets_are_replaced_and_nodes_forgotten(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        client, chain = mini.client(), ChainId(1)
        await mini.daemon(14, 104, local=LocalState.ONLINE).start()
        await asyncio.sleep(1)
        assert [(t.target, t.node) for t in await client.list_orphan_targets()] == [(104, 14)]
        await client.add_target(chain, TargetId(104), NodeId(14), 0)
        await watcher.wait_for(lambda r: states(r).get(104) == "SERVING", 5)
        assert await client.list_orphan_targets() == []
        with pytest.raises(Conflict, match="only an OFFLINE target"):
            await client.remove_target(chain, TargetId(101))
        with pytest.raises(Conflict, match="stop its daemon first"):
            await client.unregister_node(NodeId(11))
        mini.crash("storage11")
        await watcher.wait_for(lambda r: states(r)[101] == "OFFLINE", 5)
        with pytest.raises(Conflict, match="has targets"):
            await client.unregister_node(NodeId(11))
        await client.remove_target(chain, TargetId(101))
        await client.unregister_node(NodeId(11))
        routing = await watcher.wait_for(lambda r: NodeId(11) not in r.nodes, 1)
        assert states(routing) == {102: "SERVING", 103: "SERVING", 104: "SERVING"}
        assert TargetId(101) not in routing.targets

    mini.run(main)


def test_giving_up_a_lost_last_target(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain(2)
        client, chain = mini.client(), ChainId(1)
        mini.crash("storage11")
        await watcher.wait_for(lambda r: states(r)[101] == "OFFLINE", 5)
        mini.crash("storage12")
        await watcher.wait_for(lambda r: states(r)[102] == "LASTSRV", 5)
        await mini.daemon(11, 101).start()
        routing = await watcher.wait_for(lambda r: states(r)[101] == "WAITING", 5)
        version = routing.chains[chain].version
        with pytest.raises(Conflict, match="look again"):
            await client.rotate_last_serving(chain, ChainVersion(version - 1))
        await client.rotate_last_serving(chain, version)
        routing = await watcher.wait_for(lambda r: states(r)[101] == "SERVING", 5)
        assert routing.chains[chain].state_of(TargetId(102)) is PublicState.OFFLINE

    mini.run(main)


def test_the_preferred_order_is_restored(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        client, chain = mini.client(), ChainId(1)
        await client.set_preferred_order(chain, [TargetId(t) for t in (103, 102, 101)])
        for _ in range(2):
            found = await client.rotate_as_preferred(chain, watcher.routing.chains[chain].version)
            await watcher.wait_for(lambda r, v=found.version: r.chains[chain].version > v and all_serving(r), 5)
        routing = watcher.routing
        assert routing.chains[chain].targets == (103, 102, 101)
        assert (await client.rotate_as_preferred(chain, ChainVersion(0))).version == routing.chains[chain].version

    mini.run(main)


def test_chains_and_tables_are_checked(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        client = mini.client()

        def setting(chain: int, *targets: tuple[int, int]) -> pb.ChainSetting:
            return pb.ChainSetting(chain=chain, targets=[pb.TargetPlace(target=t, node=n) for t, n in targets])

        await client.set_chains([setting(1, (101, 11), (102, 12), (103, 13))])  # the same again
        for wrong, error, words in [
            (setting(1, (101, 11)), Conflict, "exists with targets"),
            (setting(2, (101, 11)), Conflict, "belongs to chain 1"),
            (setting(2, (201, 99)), NotFound, "no node 99"),
            (setting(2, (201, 1)), BadRequest, "which is a MGMTD node"),
            (setting(2, (201, 11), (201, 12)), BadRequest, "names a target twice"),
            (setting(2), BadRequest, "0 targets"),
        ]:
            with pytest.raises(error, match=words):
                await client.set_chains([wrong])
        table = ChainTableId(1)
        assert await client.set_chain_table(table, [ChainId(1)]) == 1
        assert await client.set_chain_table(table, [ChainId(1)]) == 1
        await client.set_chains([setting(2, (201, 11), (202, 12))])
        assert await client.set_chain_table(table, [ChainId(1), ChainId(2)]) == 2
        with pytest.raises(NotFound, match="no chain 7"):
            await client.set_chain_table(table, [ChainId(7)])
        routing = await watcher.wait_for(lambda r: (table, 2) in r.tables, 1)
        assert routing.tables[table, 1].chains == (1,)

    mini.run(main)


def test_configuration_reaches_daemons_and_mounts(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.start_mgmtd()
        client, got = mini.client(), []

        def take(toml: str, version: int) -> list[str]:
            got.append((toml, version))
            return ["disk"]

        await client.set_config(NodeType.STORAGE, "a = 1", "first")
        await mini.daemon(11, on_config=take).start()
        assert got == [("a = 1", 1)]
        assert await client.set_config(NodeType.STORAGE, "a = 2") == 2
        assert await client.set_config(NodeType.STORAGE, "a = 2") == 2
        await asyncio.sleep(2)
        assert got[1:] == [("a = 2", 2)]
        reply = await client.get_config_versions()
        assert [(c.node_type, c.version, c.toml) for c in reply.configs] == [(NodeType.STORAGE, 2, "")]
        assert [(n.node, n.version, n.status) for n in reply.nodes] == [(11, 2, pb.CONFIG_DIRTY)]
        assert (await client.get_config(NodeType.STORAGE, 1)).toml == "a = 1"
        with pytest.raises(NotFound, match="no configuration for META"):
            await client.get_config(NodeType.META)
        with pytest.raises(BadRequest, match="no valid TOML"):
            await client.set_config(NodeType.META, "a =")
        await client.set_config(NodeType.CLIENT, "cache = 1")
        await mini.session("mount", on_config=lambda toml, version: got.append((toml, version)) or []).start()
        assert got[-1] == ("cache = 1", 1)

    mini.run(main)


def test_mgmtd_takes_its_own_hot_keys(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        client = mini.client()
        with pytest.raises(BadRequest, match="unknown key 'failure_timeout'"):
            await client.set_config(NodeType.MGMTD, "failure_timeout = 1")
        await client.set_config(NodeType.MGMTD, "failure_timeout_s = 2.0")
        await asyncio.sleep(1)
        mini.crash("storage12")
        killed_at = mini.simulation.loop.time()
        await watcher.wait_for(lambda r: states(r)[102] == "OFFLINE", 5)
        assert mini.simulation.loop.time() - killed_at < 2.3

    mini.run(main)


def test_sessions_live_while_they_are_extended(mini: MiniCluster) -> None:
    async def main() -> None:
        await mini.start_mgmtd()
        client = mini.client()
        await client.set_universal_tags("host-a", ["rack-1"])
        assert await client.get_universal_tags("host-a") == ["rack-1"]
        kept, ended, killed = (mini.session(name, hostname="host-a") for name in ("kept", "ended", "killed"))
        for agent in (kept, ended, killed):
            await agent.start()
        reply = await client.list_client_sessions()
        assert {s.description for s in reply.sessions} == {"kept", "ended", "killed"}
        assert reply.sessions[0].tags == ["rack-1"]
        assert not reply.complete
        await ended.stop()
        mini.crash("killed")
        await asyncio.sleep(40)
        reply = await client.list_client_sessions()
        assert [s.description for s in reply.sessions] == ["kept"]
        assert reply.complete
        found = await client.get_client_session(reply.sessions[0].client)
        assert found.session.description == "kept"

    mini.run(main)


def test_usage_is_published_now_and_then(mini: MiniCluster) -> None:
    async def main() -> None:
        watcher = await mini.with_chain()
        await watcher.wait_for(lambda r: r.targets[TargetId(101)].used_bytes == 1000, 10)
        version = watcher.routing.version
        await asyncio.sleep(60)
        assert watcher.routing.version == version, "an idle cluster's map does not change"

    mini.run(main)
