"""First use of a store: the root, the collector's directory, and the mark of the cluster that it belongs to."""

from __future__ import annotations

from threefs.common.errors import UserError
from threefs.common.files import FileType, Inode, Layout
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE, ChainTableId
from threefs.meta import store
from threefs.meta.context import Environment
from threefs.meta.view import View


async def prepare_store(env: Environment, cluster_id: str) -> None:
    """Creates what is missing; any number of daemons may do it at once. UserError for another cluster's store."""
    wanted = env.config.root
    layout = Layout(ChainTableId(wanted.chain_table), 0, wanted.chunk_bytes, wanted.stripe)
    now = env.runtime.wall_us()

    async def body(view: View) -> str:
        found = await view.txn.get(store.CLUSTER_KEY)
        if found is not None and cluster_id and found.decode() != cluster_id:
            return found.decode()
        if found is None and cluster_id:
            view.txn.set(store.CLUSTER_KEY, cluster_id.encode())
        for id, mode in ((ROOT_INODE, 0o755), (GC_ROOT_INODE, 0o700)):
            if await view.find_record(id, guard=True) is None:
                view.put_inode(Inode(id, FileType.DIRECTORY, mode, 0, 0, 2, 0, now, now, now, layout, id))
        return cluster_id

    owner = await env.transact(body)
    if owner != cluster_id:
        raise UserError(
            f"this metadata store belongs to cluster {owner!r}, mgmtd is that of {cluster_id!r}",
            "give each cluster a store (or key prefix) of its own",
        )
