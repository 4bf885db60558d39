/* What needs no disk: commits, queries, space. Runs on the caller's thread, under the lock. */
#include <string.h>
#include <sys/vfs.h>

#include "engine_internal.h"

static int apply(struct engine *engine, struct chunk *chunk, const struct engine_commit *commit)
{
	struct state *pending = chunk->pending;
	if (!finished_note(engine, chunk->key.target, pending, commit->chain_version))
		return ENGINE_NO_MEMORY;
	if (pending->flags & STATE_REMOVED) {
		engine->chunk_count -= chunk->committed != NULL;
		state_set(&engine->chunks, &chunk->committed, NULL);
	} else {
		engine->chunk_count += chunk->committed == NULL;
		pending->chain_version = commit->chain_version;
		state_set(&engine->chunks, &chunk->committed, pending);
	}
	state_set(&engine->chunks, &chunk->pending, NULL);
	chunk_touch(engine, chunk);
	return 0;
}

static int commit_one(struct engine *engine, struct engine_commit *commit)
{
	struct key key = {.target = commit->target};
	struct chunk *chunk;
	memcpy(key.chunk, commit->chunk, CHUNK_ID_BYTES);
	commit->detail = 0;
	if (engine->failed)
		return ENGINE_DISK_FAILED;
	struct target *target = target_find(engine, commit->target);
	if (!target || target->dropping)
		return ENGINE_NO_TARGET;
	int error = chunk_get(engine, &key, false, &chunk);
	if (error)
		return error;
	if (!chunk)
		return ENGINE_MISSING;
	if (chunk->pending && chunk->pending->version == commit->version)
		return apply(engine, chunk, commit);
	if (!chunk->committed)
		return ENGINE_MISSING;
	commit->detail = chunk->committed->version;
	return chunk->committed->version >= commit->version ? 0 : ENGINE_MISSING;
}

void engine_commit(struct engine *engine, struct engine_commit *commits, uint32_t count)
{
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < count; i++)
		commits[i].error = commit_one(engine, &commits[i]);
	pthread_mutex_unlock(&engine->lock);
}

void meta_of(const struct state *committed, const struct state *pending, struct engine_meta *meta)
{
	meta->found = committed || pending;
	meta->committed = meta->chain_version = meta->pending = meta->pending_chain_version = meta->modified_us = 0;
	meta->length = meta->crc32c = meta->pending_length = meta->pending_crc32c = meta->pending_remove = 0;
	meta->chunk_bytes = 0;
	memset(&meta->ticket, 0, sizeof meta->ticket);
	memset(&meta->pending_ticket, 0, sizeof meta->pending_ticket);
	if (committed) {
		meta->ticket = committed->ticket;
		meta->committed = committed->version;
		meta->chain_version = committed->chain_version;
		meta->length = committed->length;
		meta->crc32c = committed->crc32c;
		meta->chunk_bytes = committed->chunk_bytes;
		meta->modified_us = committed->modified_us;
	}
	if (pending) {
		meta->pending_ticket = pending->ticket;
		meta->pending = pending->version;
		meta->pending_chain_version = pending->chain_version;
		meta->pending_length = pending->length;
		meta->pending_crc32c = pending->crc32c;
		meta->pending_remove = (pending->flags & STATE_REMOVED) != 0;
		meta->chunk_bytes = pending->chunk_bytes;
		meta->modified_us = pending->modified_us;
	}
}

static int query_one(struct engine *engine, struct engine_meta *meta)
{
	struct key key = {.target = meta->target};
	struct chunk *chunk;
	memcpy(key.chunk, meta->chunk, CHUNK_ID_BYTES);
	struct target *target = target_find(engine, meta->target);
	meta->found = 0;
	if (!target || target->dropping)
		return ENGINE_NO_TARGET;
	int error = chunk_get(engine, &key, false, &chunk);
	if (!error && chunk)
		meta_of(chunk->committed, chunk->pending, meta);
	return error;
}

void engine_query(struct engine *engine, struct engine_meta *metas, uint32_t count)
{
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < count; i++)
		metas[i].error = engine->failed ? ENGINE_DISK_FAILED : query_one(engine, &metas[i]);
	pthread_mutex_unlock(&engine->lock);
}

void engine_space(struct engine *engine, struct engine_space *space)
{
	struct statfs disk;
	uint64_t live, idle;
	uint64_t disk_free = fstatfs(engine->folder_fd, &disk) ? 0 : (uint64_t)disk.f_bavail * (uint64_t)disk.f_bsize;
	pthread_mutex_lock(&engine->lock);
	blocks_count(&engine->blocks, &live, &idle);
	space->used_bytes = live;
	space->free_bytes = disk_free + idle;
	space->capacity_bytes = live + space->free_bytes;
	space->chunk_count = engine->chunk_count;
	uint64_t limit = engine->options.capacity_bytes;
	pthread_mutex_unlock(&engine->lock);
	if (limit && limit < space->capacity_bytes) {
		space->capacity_bytes = limit;
		space->free_bytes = limit > live ? limit - live : 0;
	}
}

uint32_t engine_targets(struct engine *engine, uint64_t *targets, uint32_t max)
{
	uint32_t count = 0;
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < engine->target_count; i++)
		if (!engine->targets[i].dropping && count++ < max)
			targets[count - 1] = engine->targets[i].id;
	pthread_mutex_unlock(&engine->lock);
	return count;
}
