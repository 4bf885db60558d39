/* The records of one group: everything that differs between memory and disk, in one LMDB transaction. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "engine_internal.h"

/* What the chunk's stored states become. A staged update is written as the pending state that it is about to be. */
static void note(struct engine *engine, struct chunk *chunk, size_t *count)
{
	struct change *change = &engine->changes[(*count)++];
	change->chunk = chunk;
	chunk->pins++;
	change->committed = state_hold(chunk->committed);
	change->pending = state_hold(chunk->staging ? chunk->staging : chunk->pending);
}

static bool reserve_changes(struct engine *engine)
{
	size_t needed = engine->chunks.dirty_count + engine->group.count;
	if (needed <= engine->change_room)
		return true;
	struct change *grown = realloc(engine->changes, needed * 2 * sizeof *grown);
	if (!grown)
		return false;
	engine->changes = grown;
	engine->change_room = needed * 2;
	return true;
}

static size_t collect(struct engine *engine)
{
	size_t count = 0;
	struct chunk *dirty = engine->chunks.dirty.dirty_next;
	for (; dirty != &engine->chunks.dirty; dirty = dirty->dirty_next)
		note(engine, dirty, &count);
	for (uint32_t i = 0; i < engine->group.count; i++) {
		struct task *task = &engine->group.tasks[i];
		if (!task->error && !task->chunk->is_dirty)
			note(engine, task->chunk, &count);
	}
	finished_collect(engine);
	engine->dirty_since_ms = 0;
	return count;
}

static void mark(struct engine *engine, const struct state *state, bool stored)
{
	if (state && state->place)
		blocks_set_stored(&engine->blocks, state->place->id, stored);
}

/* Turns the bitmaps from the states `from` to the states `to`; blocks in both stay set. */
static void mark_all(struct engine *engine, size_t count, bool forward)
{
	for (size_t i = 0; i < count; i++) {
		const struct change *change = &engine->changes[i];
		const struct chunk *chunk = change->chunk;
		mark(engine, forward ? chunk->stored_committed : change->committed, false);
		mark(engine, forward ? chunk->stored_pending : change->pending, false);
	}
	for (size_t i = 0; i < count; i++) {
		const struct change *change = &engine->changes[i];
		const struct chunk *chunk = change->chunk;
		mark(engine, forward ? change->committed : chunk->stored_committed, true);
		mark(engine, forward ? change->pending : chunk->stored_pending, true);
	}
}

static int put_state(struct engine *engine, MDB_txn *txn, enum record_table table, const struct key *key,
		     const struct state *was, const struct state *now)
{
	if (now == was)
		return 0;
	if (now)
		return records_put(&engine->records, txn, table, key, now);
	return records_delete(&engine->records, txn, table, key);
}

static int put_group(struct engine *engine, MDB_txn *txn, const struct state *state)
{
	if (!state || !state->place)
		return 0;
	struct place_id id = state->place->id;
	const struct block_class *class = &engine->blocks.classes[id.class_index];
	uint64_t index = id.block / class->group_blocks;
	struct group *group = &class->groups[index];
	if (!group->changed)
		return 0;
	group->changed = false;
	return records_put_group(&engine->records, txn, id.class_index, index, group->stored);
}

static int put_change(struct engine *engine, MDB_txn *txn, const struct change *change)
{
	struct chunk *chunk = change->chunk;
	int status = put_state(engine, txn, TABLE_COMMITTED, &chunk->key, chunk->stored_committed, change->committed);
	if (!status)
		status = put_state(engine, txn, TABLE_PENDING, &chunk->key, chunk->stored_pending, change->pending);
	const struct state *named[] = {chunk->stored_committed, chunk->stored_pending, change->committed,
				       change->pending};
	for (unsigned i = 0; !status && i < 4; i++)
		status = put_group(engine, txn, named[i]);
	return status;
}

static int write_changes(struct engine *engine, size_t count)
{
	MDB_txn *txn;
	int status = records_write_begin(&engine->records, &txn);
	if (status)
		return status;
	for (size_t i = 0; !status && i < count; i++)
		status = put_change(engine, txn, &engine->changes[i]);
	if (!status)
		status = finished_put(engine, txn);
	if (status) {
		mdb_txn_abort(txn);
		return status;
	}
	return mdb_txn_commit(txn);
}

static void settle(struct engine *engine, size_t count, bool written)
{
	finished_settle(engine, written);
	if (!written)
		mark_all(engine, count, false);
	for (size_t i = 0; i < count; i++) {
		struct change *change = &engine->changes[i];
		if (written) {
			state_set(&engine->chunks, &change->chunk->stored_committed, change->committed);
			state_set(&engine->chunks, &change->chunk->stored_pending, change->pending);
		}
		change->chunk->pins--;
		state_drop(&engine->chunks, change->committed);
		state_drop(&engine->chunks, change->pending);
		if (!change->chunk->staging) /* else `stage_end` does it */
			chunk_touch(engine, change->chunk);
	}
}

/* LMDB calls a write that was cut short, as a full disk cuts it, an I/O error. */
static bool is_full(const struct engine *engine, int status)
{
	struct statfs disk;
	if (status == ENOSPC || status == EDQUOT || status == MDB_MAP_FULL)
		return true;
	return status == EIO && fstatfs(engine->folder_fd, &disk) == 0 &&
	       (uint64_t)disk.f_bavail * (uint64_t)disk.f_bsize < RESERVE_BYTES;
}

int flush_records(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	int error = engine->failed ? ENGINE_DISK_FAILED : 0;
	if (!error && !reserve_changes(engine))
		error = ENGINE_NO_MEMORY;
	size_t count = error ? 0 : collect(engine);
	mark_all(engine, count, true);
	pthread_mutex_unlock(&engine->lock);
	if (error || (!count && !engine->finishing.count))
		return error;
	int status = write_changes(engine, count);
	pthread_mutex_lock(&engine->lock);
	if (status && is_full(engine, status))
		error = ENGINE_NO_SPACE;
	else if (status)
		error = ENGINE_DISK_FAILED;
	if (error == ENGINE_DISK_FAILED)
		engine_fail(engine, "writing chunk records", status);
	settle(engine, count, !error);
	pthread_mutex_unlock(&engine->lock);
	return error;
}

void reserve_take(struct engine *engine)
{
	int fd = openat(engine->folder_fd, "reserve", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	engine->reserve_held = fd >= 0 && engine->io->allocate(fd, 0, RESERVE_BYTES) == 0;
	if (fd >= 0)
		close(fd);
	if (!engine->reserve_held)
		reserve_release(engine); /* a part of it would only be in the way */
}

void reserve_release(struct engine *engine)
{
	unlinkat(engine->folder_fd, "reserve", 0);
	engine->reserve_held = false;
}
