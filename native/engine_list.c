/* A target's chunks in order: the committed records, with what memory knows better laid over them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

/* Keys in memory only, or whose records are out of date: dirty chunks, and chunks that have a pending record. */
struct extras {
	struct key *keys;
	size_t count, room;
};

struct listing {
	struct engine *engine;
	struct key begin, end; /* begin <= key < end */
	bool reverse;
	struct extras extras;
	size_t next_extra;
	MDB_cursor *committed;
	MDB_val raw_key, raw;
	int status; /* of the committed cursor */
	struct key at;
};

static int compare(const struct key *a, const struct key *b)
{
	if (a->target != b->target)
		return a->target < b->target ? -1 : 1;
	return memcmp(a->chunk, b->chunk, CHUNK_ID_BYTES);
}

static int ascending(const void *a, const void *b)
{
	return compare(a, b);
}

static int descending(const void *a, const void *b)
{
	return compare(b, a);
}

static bool is_inside(const struct listing *listing, const struct key *key)
{
	return compare(key, &listing->begin) >= 0 && compare(key, &listing->end) < 0;
}

static int add_extra(struct listing *listing, const struct key *key)
{
	struct extras *extras = &listing->extras;
	if (!is_inside(listing, key))
		return 0;
	if (extras->count == extras->room) {
		size_t room = extras->room ? extras->room * 2 : 64;
		struct key *grown = realloc(extras->keys, room * sizeof *grown);
		if (!grown)
			return ENOMEM;
		extras->keys = grown;
		extras->room = room;
	}
	extras->keys[extras->count++] = *key;
	return 0;
}

static int add_pending(struct listing *listing, MDB_cursor *cursor)
{
	MDB_val raw_key, raw;
	int status = records_seek(cursor, &listing->begin, false, false, &raw_key, &raw);
	while (!status) {
		struct key key;
		status = records_decode_key(&raw_key, &key);
		if (!status && !is_inside(listing, &key))
			return 0;
		if (!status)
			status = add_extra(listing, &key);
		if (!status)
			status = records_seek(cursor, NULL, false, true, &raw_key, &raw);
	}
	return status == MDB_NOTFOUND ? 0 : status;
}

static int gather_extras(struct listing *listing)
{
	struct engine *engine = listing->engine;
	MDB_cursor *cursor;
	int status = mdb_cursor_open(engine->records.reader, engine->records.tables[TABLE_PENDING], &cursor);
	if (status)
		return status;
	status = add_pending(listing, cursor);
	mdb_cursor_close(cursor);
	struct chunk *dirty = engine->chunks.dirty.dirty_next;
	for (; !status && dirty != &engine->chunks.dirty; dirty = dirty->dirty_next)
		status = add_extra(listing, &dirty->key);
	if (listing->extras.count)
		qsort(listing->extras.keys, listing->extras.count, sizeof(struct key),
		      listing->reverse ? descending : ascending);
	return status;
}

/* Moves the committed cursor to its first or next key inside the range; at the end, status is MDB_NOTFOUND. */
static void advance(struct listing *listing, bool next)
{
	const struct key *from = listing->reverse ? &listing->end : &listing->begin;
	listing->status = records_seek(listing->committed, from, listing->reverse, next, &listing->raw_key, &listing->raw);
	if (!listing->status)
		listing->status = records_decode_key(&listing->raw_key, &listing->at);
	if (!next && listing->reverse && !listing->status && compare(&listing->at, &listing->end) == 0) {
		advance(listing, true); /* the end itself does not belong */
		return;
	}
	if (!listing->status && !is_inside(listing, &listing->at))
		listing->status = MDB_NOTFOUND;
}

/* The next key of either source; false at the end. */
static bool step(struct listing *listing, struct key *key, bool *from_record)
{
	const struct extras *extras = &listing->extras;
	bool more = listing->next_extra < extras->count;
	if (!more && listing->status)
		return false;
	int order = !more ? -1 : listing->status ? 1 : compare(&listing->at, &extras->keys[listing->next_extra]);
	if (more && !listing->status && listing->reverse)
		order = -order;
	*from_record = order <= 0;
	*key = order <= 0 ? listing->at : extras->keys[listing->next_extra];
	while (listing->next_extra < extras->count && compare(&extras->keys[listing->next_extra], key) == 0)
		listing->next_extra++;
	return true;
}

static int fill(struct listing *listing, const struct key *key, bool from_record, struct engine_meta *meta)
{
	struct chunk *chunk = chunks_find(&listing->engine->chunks, key);
	meta->found = 0;
	meta->error = 0;
	meta->target = key->target;
	memcpy(meta->chunk, key->chunk, CHUNK_ID_BYTES);
	if (chunk) {
		meta_of(chunk->committed, chunk->pending, meta);
	} else if (from_record) {
		struct state *state;
		struct place_id id;
		struct key again;
		int status = records_decode(&listing->raw_key, &listing->raw, &again, &state, &id);
		if (status == ENOMEM)
			return status;
		if (status) { /* a damaged record: the caller repairs the chunk from a replica */
			meta_of(NULL, NULL, meta);
			meta->found = 1;
			meta->error = ENGINE_CORRUPT;
			return 0;
		}
		meta_of(state, NULL, meta);
		state_drop(&listing->engine->chunks, state);
	}
	return 0;
}

static int64_t run(struct listing *listing, uint32_t limit, struct engine_meta *metas)
{
	struct engine *engine = listing->engine;
	uint32_t count = 0;
	struct key key;
	bool from_record;
	int status = gather_extras(listing);
	if (!status)
		status = mdb_cursor_open(engine->records.reader, engine->records.tables[TABLE_COMMITTED], &listing->committed);
	if (status)
		return -ENGINE_NO_MEMORY;
	advance(listing, false);
	while (count < limit && step(listing, &key, &from_record)) {
		if (fill(listing, &key, from_record, &metas[count])) {
			mdb_cursor_close(listing->committed);
			return -ENGINE_NO_MEMORY;
		}
		count += metas[count].found;
		if (from_record)
			advance(listing, true);
	}
	mdb_cursor_close(listing->committed);
	return listing->status && listing->status != MDB_NOTFOUND ? -ENGINE_CORRUPT : (int64_t)count;
}

int64_t engine_list(struct engine *engine, uint64_t target, const uint8_t *begin, const uint8_t *end, uint32_t limit,
		    int reverse, struct engine_meta *metas)
{
	struct listing listing = {.engine = engine, .reverse = reverse != 0};
	int64_t count = 0;
	listing.begin.target = listing.end.target = target;
	memcpy(listing.begin.chunk, begin, CHUNK_ID_BYTES);
	memcpy(listing.end.chunk, end, CHUNK_ID_BYTES);
	pthread_mutex_lock(&engine->lock);
	struct target *found = target_find(engine, target);
	if (!found || found->dropping)
		count = -ENGINE_NO_TARGET;
	else if (engine->failed || records_read_begin(&engine->records))
		count = -ENGINE_DISK_FAILED;
	if (!count) {
		count = run(&listing, limit, metas);
		records_read_end(&engine->records);
	}
	pthread_mutex_unlock(&engine->lock);
	free(listing.extras.keys);
	return count;
}

static uint32_t keys_of_table(struct engine *engine, enum record_table table, const struct key *first, struct key *keys,
			      uint32_t max)
{
	MDB_cursor *cursor;
	MDB_val raw_key, raw;
	uint32_t count = 0;
	if (mdb_cursor_open(engine->records.reader, engine->records.tables[table], &cursor))
		return 0;
	int status = records_seek(cursor, first, false, false, &raw_key, &raw);
	while (!status && count < max && !records_decode_key(&raw_key, &keys[count]) &&
	       keys[count].target == first->target) {
		count++;
		status = records_seek(cursor, NULL, false, true, &raw_key, &raw);
	}
	mdb_cursor_close(cursor);
	return count;
}

uint32_t target_keys(struct engine *engine, uint64_t id, struct key *keys, uint32_t max)
{
	struct key first = {.target = id};
	if (records_read_begin(&engine->records))
		return 0;
	uint32_t count = keys_of_table(engine, TABLE_COMMITTED, &first, keys, max);
	if (!count)
		count = keys_of_table(engine, TABLE_PENDING, &first, keys, max);
	records_read_end(&engine->records);
	return count;
}
