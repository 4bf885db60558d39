/* Opening after any end, and the audit of records against bitmaps. */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

typedef int (*visit)(struct engine *engine, const MDB_val *key, const MDB_val *value, void *context);

static int walk(struct engine *engine, enum record_table table, visit each, void *context)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int status = mdb_cursor_open(engine->records.reader, engine->records.tables[table], &cursor);
	if (status)
		return status;
	status = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (!status) {
		status = each(engine, &key, &value, context);
		if (!status)
			status = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return status == MDB_NOTFOUND ? 0 : status;
}

static int parse_group(const MDB_val *key, const MDB_val *value, uint32_t *class_index, uint64_t *index,
		       uint64_t stored[GROUP_WORDS])
{
	if (key->mv_size != 12 || value->mv_size != GROUP_WORDS * sizeof(uint64_t))
		return STATUS_CORRUPT;
	memcpy(class_index, key->mv_data, 4);
	memcpy(index, (const uint8_t *)key->mv_data + 4, 8);
	memcpy(stored, value->mv_data, value->mv_size);
	*class_index = be32toh(*class_index);
	*index = be64toh(*index);
	return *class_index < BLOCK_CLASSES ? 0 : STATUS_CORRUPT;
}

static int restore_group(struct engine *engine, const MDB_val *key, const MDB_val *value, void *context)
{
	uint32_t class_index;
	uint64_t index, stored[GROUP_WORDS];
	int status = parse_group(key, value, &class_index, &index, stored);
	return status ? status : blocks_restore(&engine->blocks, class_index, index, stored);
}

static int restore_target(struct engine *engine, const MDB_val *key, const MDB_val *value, void *context)
{
	struct engine_report *report = context;
	uint64_t id;
	if (key->mv_size != sizeof id || value->mv_size != 1)
		return STATUS_CORRUPT;
	memcpy(&id, key->mv_data, sizeof id);
	bool dropping = *(const uint8_t *)value->mv_data != 0;
	report->dropping_count += dropping;
	return target_add(engine, be64toh(id), dropping) ? ENOMEM : 0;
}

static void note_damage(struct engine_report *report, const MDB_val *key)
{
	if (!report->damaged_count++ && key->mv_size == 24) {
		memcpy(&report->damaged_target, key->mv_data, 8);
		report->damaged_target = be64toh(report->damaged_target);
		memcpy(report->damaged_chunk, (const uint8_t *)key->mv_data + 8, CHUNK_ID_BYTES);
	}
}

/* Joins a pending state to its chunk; both may live in one block. */
static int join(struct engine *engine, struct chunk *chunk, struct state *state, struct place_id id)
{
	struct state *base = chunk->committed;
	if (id.class_index == NO_PLACE) {
		state->place = NULL;
	} else if (base && base->place && base->place->id.class_index == id.class_index &&
		   base->place->id.block == id.block) {
		state->place = base->place;
		state->place->refs++;
	} else {
		state->place = place_new(id);
		if (!state->place)
			return ENOMEM;
	}
	if (state->place && state->place->high < state->stored_bytes)
		state->place->high = state->stored_bytes;
	chunk->stored_pending = state;
	bool obsolete = base && state->version <= base->version && state->chain_version <= base->chain_version;
	chunk->pending = obsolete ? NULL : state_hold(state);
	chunk_touch(engine, chunk);
	return 0;
}

struct pending_walk {
	struct engine_report *report;
	struct key *keys; /* loaded after the walk: loading moves the read transaction */
	size_t count, room;
};

static int note_pending(struct engine *engine, const MDB_val *key, const MDB_val *value, void *context)
{
	struct pending_walk *found = context;
	struct key parsed;
	if (records_decode_key(key, &parsed)) {
		note_damage(found->report, key);
		return 0;
	}
	if (found->count == found->room) {
		size_t room = found->room ? found->room * 2 : 64;
		struct key *grown = realloc(found->keys, room * sizeof *grown);
		if (!grown)
			return ENOMEM;
		found->keys = grown;
		found->room = room;
	}
	found->keys[found->count++] = parsed;
	return 0;
}

static int restore_pending(struct engine *engine, const struct key *key, struct engine_report *report)
{
	struct chunk *chunk;
	struct state *state;
	struct place_id id;
	int status = records_read_begin(&engine->records);
	if (status)
		return status;
	status = records_load(&engine->records, TABLE_PENDING, key, &state, &id);
	records_read_end(&engine->records);
	if (status == STATUS_CORRUPT || (state && id.class_index != NO_PLACE && !blocks_is_stored(&engine->blocks, id)) ||
	    (!status && chunk_get(engine, key, true, &chunk))) {
		state_drop(&engine->chunks, state);
		MDB_val raw_key = {0, NULL};
		report->damaged_target = key->target;
		memcpy(report->damaged_chunk, key->chunk, CHUNK_ID_BYTES);
		note_damage(report, &raw_key);
		return 0;
	}
	return status || !state ? status : join(engine, chunk, state, id);
}

static int restore_all_pending(struct engine *engine, struct engine_report *report)
{
	struct pending_walk found = {.report = report};
	int status = records_read_begin(&engine->records);
	if (!status) {
		status = walk(engine, TABLE_PENDING, note_pending, &found);
		records_read_end(&engine->records);
	}
	for (size_t i = 0; !status && i < found.count; i++)
		status = restore_pending(engine, &found.keys[i], report);
	report->pending_count = found.count;
	free(found.keys);
	return status;
}

static int restore_tables(struct engine *engine, struct engine_report *report)
{
	MDB_stat stat;
	int status = records_read_begin(&engine->records);
	if (status)
		return status;
	status = walk(engine, TABLE_TARGETS, restore_target, report);
	if (!status)
		status = walk(engine, TABLE_GROUPS, restore_group, NULL);
	if (!status)
		status = blocks_restore_rest(&engine->blocks);
	if (!status)
		status = mdb_stat(engine->records.reader, engine->records.tables[TABLE_COMMITTED], &stat);
	if (!status)
		engine->chunk_count = report->chunk_count = stat.ms_entries;
	records_read_end(&engine->records);
	return status;
}

/* Removals that a stop or a crash interrupted go on by themselves. */
static int resume_drops(struct engine *engine)
{
	for (uint32_t i = 0; i < engine->target_count; i++) {
		if (!engine->targets[i].dropping)
			continue;
		struct batch *batch = calloc(1, sizeof *batch + sizeof *batch->order);
		if (!batch)
			return ENOMEM;
		batch->kind = BATCH_ORDER;
		batch->order = (struct engine_order *)(batch + 1); /* goes with the batch */
		*batch->order = (struct engine_order){.kind = ENGINE_DROP_TARGET, .target = engine->targets[i].id};
		batch_append(&engine->queue, batch);
	}
	return 0;
}

int recover(struct engine *engine, struct engine_report *report)
{
	int status = restore_tables(engine, report);
	if (!status)
		status = restore_all_pending(engine, report);
	if (!status)
		status = resume_drops(engine);
	if (!status)
		return 0;
	const char *why = status == ENODATA ? "a block file is shorter than its records say"
			  : status > 0	    ? strerror(status)
					    : records_message(status);
	snprintf(report->message, sizeof report->message, "recovery: %s", why);
	report->error = status == ENOMEM ? ENGINE_NO_MEMORY : ENGINE_CORRUPT;
	return report->error;
}

struct audit {
	uint64_t *claimed[BLOCK_CLASSES]; /* group_count * GROUP_WORDS words a class */
	uint64_t findings;
	char *message;
	uint32_t message_bytes;
	struct key last;
	struct place_id last_id;
};

static void find(struct audit *audit, const char *what, uint64_t class_index, uint64_t block)
{
	if (!audit->findings++)
		snprintf(audit->message, audit->message_bytes, "%s: class %llu, block %llu", what,
			 (unsigned long long)class_index, (unsigned long long)block);
}

static int claim(struct engine *engine, const MDB_val *raw_key, const MDB_val *raw, void *context)
{
	struct audit *audit = context;
	struct state *state;
	struct place_id id;
	struct key key;
	if (records_decode(raw_key, raw, &key, &state, &id)) {
		find(audit, "a record does not parse", 0, 0);
		return 0;
	}
	bool placed = id.class_index != NO_PLACE;
	state_drop(&engine->chunks, state);
	if (!placed)
		return 0;
	const struct block_class *class = &engine->blocks.classes[id.class_index];
	if (id.block / class->group_blocks >= class->group_count) {
		find(audit, "a record names a block beyond the file", id.class_index, id.block);
		return 0;
	}
	uint64_t within = id.block % class->group_blocks;
	uint64_t *word = &audit->claimed[id.class_index][id.block / class->group_blocks * GROUP_WORDS + within / 64];
	if (*word >> (within % 64) & 1)
		find(audit, "two chunks have one block", id.class_index, id.block);
	*word |= 1ull << (within % 64);
	return 0;
}

/* A pending state may share its chunk's block. */
static int claim_pending(struct engine *engine, const MDB_val *raw_key, const MDB_val *raw, void *context)
{
	struct state *pending, *base;
	struct place_id id, base_id;
	struct key key;
	if (records_decode(raw_key, raw, &key, &pending, &id) == 0) {
		bool shared = !records_load(&engine->records, TABLE_COMMITTED, &key, &base, &base_id) && base &&
			      base_id.class_index == id.class_index && base_id.block == id.block;
		state_drop(&engine->chunks, pending);
		state_drop(&engine->chunks, base);
		if (shared)
			return 0;
	}
	return claim(engine, raw_key, raw, context);
}

static int compare_group(struct engine *engine, const MDB_val *key, const MDB_val *value, void *context)
{
	struct audit *audit = context;
	uint32_t class_index;
	uint64_t index, stored[GROUP_WORDS];
	if (parse_group(key, value, &class_index, &index, stored) ||
	    index >= engine->blocks.classes[class_index].group_count) {
		find(audit, "a group's bitmap does not parse", 0, 0);
		return 0;
	}
	uint64_t *claimed = &audit->claimed[class_index][index * GROUP_WORDS];
	uint32_t blocks = engine->blocks.classes[class_index].group_blocks;
	for (uint32_t i = 0; i < blocks; i++)
		if ((stored[i / 64] ^ claimed[i / 64]) >> (i % 64) & 1)
			find(audit, "bitmap and records disagree", class_index, index * blocks + i);
	memset(claimed, 0, GROUP_WORDS * sizeof *claimed);
	return 0;
}

static void find_unmapped(struct engine *engine, struct audit *audit)
{
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++)
		for (uint64_t word = 0; word < engine->blocks.classes[i].group_count * GROUP_WORDS; word++)
			if (audit->claimed[i][word])
				find(audit, "a block's group has no bitmap", i, word);
}

static int audit_tables(struct engine *engine, struct audit *audit)
{
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		audit->claimed[i] = calloc(engine->blocks.classes[i].group_count + 1, GROUP_WORDS * sizeof(uint64_t));
		if (!audit->claimed[i])
			return ENOMEM;
	}
	int status = records_read_begin(&engine->records);
	if (status)
		return status;
	status = walk(engine, TABLE_COMMITTED, claim, audit);
	if (!status)
		status = walk(engine, TABLE_PENDING, claim_pending, audit);
	if (!status)
		status = walk(engine, TABLE_GROUPS, compare_group, audit);
	if (!status)
		find_unmapped(engine, audit);
	records_read_end(&engine->records);
	return status;
}

uint64_t engine_audit(struct engine *engine, char *message, uint32_t message_bytes)
{
	struct audit audit = {.message = message, .message_bytes = message_bytes};
	message[0] = 0;
	pthread_mutex_lock(&engine->lock);
	int status = audit_tables(engine, &audit);
	if (status)
		find(&audit, status > 0 ? strerror(status) : records_message(status), 0, 0);
	pthread_mutex_unlock(&engine->lock);
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++)
		free(audit.claimed[i]);
	return audit.findings;
}
