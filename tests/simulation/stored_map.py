"""Is the map in the primary's memory the one in the store, and is there exactly one primary?"""

from __future__ import annotations

from tests.simulation.world import MgmtdProcess, World


async def violations(world: World) -> list[str]:
    primaries = [
        process
        for process in world.of_kind("mgmtd")
        if isinstance(process, MgmtdProcess) and process.server is not None and process.server.lease.is_valid()
    ]
    if len(primaries) != 1:
        return [f"{len(primaries)} mgmtds believe to be primary: {[process.name for process in primaries]}"]
    server = primaries[0].server
    assert server is not None
    stored, incarnations = await server.cluster.store.load()
    state = server.cluster.require()
    if stored != state.routing:
        return [f"the map in memory (version {state.routing.version}) differs from the stored one ({stored.version})"]
    lives = {node: life.id for node, life in state.incarnations.items()}
    if {node: life.id for node, life in incarnations.items()} != lives:
        return ["the stored incarnations differ from those in memory"]
    return []
