/* Which updates were committed, by client and channel: noted with each commit, and written with its records, so that a
 * retry is recognised after any crash. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

static bool make_room(struct finished_list *list, size_t more)
{
	if (list->count + more <= list->room)
		return true;
	size_t room = (list->count + more) * 2 + 64;
	struct engine_finished *grown = realloc(list->items, room * sizeof *grown);
	if (!grown)
		return false;
	list->items = grown;
	list->room = room;
	return true;
}

static void append(struct finished_list *list, const struct engine_finished *items, size_t count)
{
	if (count)
		memcpy(list->items + list->count, items, count * sizeof *items);
	list->count += count;
}

bool finished_note(struct engine *engine, uint64_t target, const struct state *state, uint64_t chain_version)
{
	if (!state->ticket.sequence)
		return true;
	if (!make_room(&engine->finished, 1))
		return false;
	engine->finished.items[engine->finished.count++] = (struct engine_finished){
		.target = target,
		.ticket = state->ticket,
		.version = state->version,
		.chain_version = chain_version,
		.finished_us = wall_us(),
		.length = state->length,
		.crc32c = state->crc32c,
	};
	return true;
}

void finished_collect(struct engine *engine)
{
	struct finished_list empty = engine->finishing;
	empty.count = 0;
	engine->finishing = engine->finished;
	engine->finished = empty;
}

void finished_settle(struct engine *engine, bool written)
{
	struct finished_list *newer = &engine->finished, *older = &engine->finishing;
	if (!written && older->count) {
		if (!make_room(older, newer->count)) {
			engine_fail(engine, "keeping finished updates for the next group", ENOMEM);
			return;
		}
		append(older, newer->items, newer->count);
		struct finished_list both = *older;
		*older = *newer;
		*newer = both;
	}
	older->count = 0;
}

/* A target that is being dropped, or gone by now, has no finished updates any more. */
static bool has_target(struct engine *engine, uint64_t id)
{
	for (uint32_t i = 0; i < engine->target_count; i++) /* only the writer thread, which this is, changes targets */
		if (engine->targets[i].id == id)
			return !engine->targets[i].dropping;
	return false;
}

int finished_put(struct engine *engine, MDB_txn *txn)
{
	int status = 0;
	for (size_t i = 0; !status && i < engine->finishing.count; i++)
		if (has_target(engine, engine->finishing.items[i].target))
			status = records_put_finished(&engine->records, txn, &engine->finishing.items[i]);
	return status;
}

int engine_remember(struct engine *engine, const struct engine_finished *finished, uint32_t count)
{
	pthread_mutex_lock(&engine->lock);
	int error = engine->failed ? ENGINE_DISK_FAILED : 0;
	if (!error && !make_room(&engine->finished, count))
		error = ENGINE_NO_MEMORY;
	if (!error)
		append(&engine->finished, finished, count);
	pthread_mutex_unlock(&engine->lock);
	return error;
}

static int64_t list_finished(struct engine *engine, uint64_t target, const struct engine_ticket *after, uint32_t limit,
			     struct engine_finished *found)
{
	MDB_cursor *cursor;
	uint32_t count = 0;
	if (mdb_cursor_open(engine->records.reader, engine->records.tables[TABLE_FINISHED], &cursor))
		return -ENGINE_NO_MEMORY;
	int status = 0;
	while (count < limit && !(status = records_seek_finished(cursor, target, after, count > 0, &found[count])))
		count++;
	mdb_cursor_close(cursor);
	return status && status != MDB_NOTFOUND ? -ENGINE_CORRUPT : (int64_t)count;
}

int64_t engine_list_finished(struct engine *engine, uint64_t target, const struct engine_ticket *after, uint32_t limit,
			     struct engine_finished *found)
{
	pthread_mutex_lock(&engine->lock);
	int64_t count = engine->failed || records_read_begin(&engine->records) ? -ENGINE_DISK_FAILED : 0;
	if (!count) {
		count = list_finished(engine, target, after, limit, found);
		records_read_end(&engine->records);
	}
	pthread_mutex_unlock(&engine->lock);
	return count;
}
