#include "chunks.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1 << 16 };

bool chunks_open(struct chunks *chunks, struct blocks *blocks, size_t count_max)
{
	memset(chunks, 0, sizeof *chunks);
	chunks->blocks = blocks;
	chunks->count_max = count_max;
	chunks->recent.recent_next = chunks->recent.recent_previous = &chunks->recent;
	chunks->dirty.dirty_next = chunks->dirty.dirty_previous = &chunks->dirty;
	chunks->buckets = calloc(BUCKETS, sizeof(struct chunk *));
	return chunks->buckets != NULL;
}

static size_t bucket_of(const struct key *key)
{
	uint64_t words[3];
	memcpy(words, key, sizeof words);
	uint64_t mixed = words[0] * 0x9e3779b97f4a7c15u;
	mixed = (mixed ^ (mixed >> 29) ^ words[1]) * 0xbf58476d1ce4e5b9u;
	mixed = (mixed ^ (mixed >> 32) ^ words[2]) * 0x94d049bb133111ebu;
	return (size_t)(mixed >> 48) % BUCKETS;
}

static void unlink_recent(struct chunk *chunk)
{
	chunk->recent_previous->recent_next = chunk->recent_next;
	chunk->recent_next->recent_previous = chunk->recent_previous;
}

static void link_recent(struct chunks *chunks, struct chunk *chunk)
{
	chunk->recent_next = chunks->recent.recent_next;
	chunk->recent_previous = &chunks->recent;
	chunk->recent_next->recent_previous = chunk;
	chunks->recent.recent_next = chunk;
}

struct chunk *chunks_find(struct chunks *chunks, const struct key *key)
{
	struct chunk *chunk = chunks->buckets[bucket_of(key)];
	while (chunk && memcmp(&chunk->key, key, sizeof *key))
		chunk = chunk->hash_next;
	if (chunk && chunks->recent.recent_next != chunk) {
		unlink_recent(chunk);
		link_recent(chunks, chunk);
	}
	return chunk;
}

/* Forgets a chunk, whatever state it is in. */
static void forget(struct chunks *chunks, struct chunk *chunk)
{
	struct chunk **link = &chunks->buckets[bucket_of(&chunk->key)];
	while (*link != chunk)
		link = &(*link)->hash_next;
	*link = chunk->hash_next;
	unlink_recent(chunk);
	state_drop(chunks, chunk->committed);
	state_drop(chunks, chunk->pending);
	state_drop(chunks, chunk->stored_committed);
	state_drop(chunks, chunk->stored_pending);
	free(chunk);
	chunks->count--;
}

/* True if memory holds nothing about the chunk that its record does not, and no reader holds its state: a second
 * `struct place` of one block would lose count. */
static bool is_idle(const struct chunk *chunk)
{
	return !chunk->is_dirty && !chunk->pending && !chunk->pins &&
	       (!chunk->committed || chunk->committed->refs == 2);
}

static void forget_some(struct chunks *chunks)
{
	struct chunk *oldest = chunks->recent.recent_previous;
	for (int steps = 0; chunks->count > chunks->count_max && oldest != &chunks->recent && steps < 16; steps++) {
		struct chunk *previous = oldest->recent_previous;
		if (is_idle(oldest))
			forget(chunks, oldest);
		oldest = previous;
	}
}

struct chunk *chunks_add(struct chunks *chunks, const struct key *key)
{
	forget_some(chunks);
	struct chunk *chunk = calloc(1, sizeof *chunk);
	if (!chunk)
		return NULL;
	chunk->key = *key;
	struct chunk **bucket = &chunks->buckets[bucket_of(key)];
	chunk->hash_next = *bucket;
	*bucket = chunk;
	link_recent(chunks, chunk);
	chunks->count++;
	return chunk;
}

void chunks_judge(struct chunks *chunks, struct chunk *chunk)
{
	bool dirty = chunk->committed != chunk->stored_committed || chunk->pending != chunk->stored_pending;
	if (dirty == chunk->is_dirty)
		return;
	chunk->is_dirty = dirty;
	if (dirty) {
		chunk->dirty_next = &chunks->dirty;
		chunk->dirty_previous = chunks->dirty.dirty_previous;
		chunk->dirty_previous->dirty_next = chunk;
		chunks->dirty.dirty_previous = chunk;
		chunks->dirty_count++;
	} else {
		chunk->dirty_previous->dirty_next = chunk->dirty_next;
		chunk->dirty_next->dirty_previous = chunk->dirty_previous;
		chunks->dirty_count--;
	}
}

void chunks_close(struct chunks *chunks)
{
	while (chunks->buckets && chunks->recent.recent_next != &chunks->recent)
		forget(chunks, chunks->recent.recent_next);
	free(chunks->buckets);
}

uint32_t unit_bytes(uint32_t chunk_bytes)
{
	uint32_t share = chunk_bytes / UNITS_MAX;
	return share > UNIT_BYTES_MIN ? share : UNIT_BYTES_MIN;
}

static uint32_t units_of(uint32_t chunk_bytes, uint32_t stored_bytes)
{
	uint32_t unit = unit_bytes(chunk_bytes);
	return (stored_bytes + unit - 1) / unit;
}

uint32_t unit_count(const struct state *state)
{
	return units_of(state->chunk_bytes, state->stored_bytes);
}

struct state *state_new(uint32_t chunk_bytes, uint32_t stored_bytes)
{
	struct state *state = calloc(1, sizeof *state + units_of(chunk_bytes, stored_bytes) * sizeof(uint32_t));
	if (!state)
		return NULL;
	state->refs = 1;
	state->chunk_bytes = chunk_bytes;
	state->length = state->stored_bytes = stored_bytes;
	return state;
}

struct state *state_hold(struct state *state)
{
	if (state)
		state->refs++;
	return state;
}

static void place_drop(struct chunks *chunks, struct place *place)
{
	if (!place || --place->refs)
		return;
	if (!blocks_is_stored(chunks->blocks, place->id))
		blocks_give_back(chunks->blocks, place->id);
	free(place);
}

void state_drop(struct chunks *chunks, struct state *state)
{
	if (!state || --state->refs)
		return;
	place_drop(chunks, state->place);
	free(state);
}

void state_set(struct chunks *chunks, struct state **slot, struct state *state)
{
	state_hold(state);
	state_drop(chunks, *slot);
	*slot = state;
}

struct place *place_new(struct place_id id)
{
	struct place *place = calloc(1, sizeof *place);
	if (place) {
		place->refs = 1;
		place->id = id;
	}
	return place;
}
