/* Chunks in memory: a table of those in use, with reference-counted, immutable states.
 *
 * A chunk has up to four states: `committed` and `pending` as callers see them, `stored_committed` and
 * `stored_pending` as the records on disk have them. It is dirty while these differ. A state holds its place (block)
 * by reference; a block becomes free when the last reference to its last state goes and no record on disk names it:
 * no caller and no reader in flight needs it then. All of this is covered by the engine's lock. */
#ifndef THREEFS_CHUNKS_H
#define THREEFS_CHUNKS_H

#include "blocks.h"
#include "engine.h"

enum { UNITS_MAX = 256, UNIT_BYTES_MIN = 4096, CHUNK_ID_BYTES = 16 };
enum { STATE_REMOVED = 1 };

struct key {
	uint64_t target;
	uint8_t chunk[CHUNK_ID_BYTES];
};

struct place {
	uint32_t refs;
	uint32_t high; /* bytes that some state may refer to: nothing below is ever written again */
	struct place_id id;
};

struct state {
	uint32_t refs;
	uint32_t flags;
	struct place *place; /* NULL if stored_bytes is 0 */
	uint64_t version, chain_version, modified_us;
	uint32_t length;
	uint32_t stored_bytes; /* <= length; what follows reads as zeros */
	uint32_t crc32c;       /* of the whole content, zeros included */
	uint32_t chunk_bytes;
	struct engine_ticket ticket; /* of the update that made the content */
	uint32_t crcs[]; /* one a unit of the stored bytes; the last may be partial */
};

struct chunk {
	struct key key;
	struct chunk *hash_next;
	struct chunk *recent_next, *recent_previous;
	struct chunk *dirty_next, *dirty_previous;
	struct state *committed, *pending, *stored_committed, *stored_pending; /* NULL: none */
	struct state *staging; /* an update that is on its way to the disk, or NULL; not a reference */
	uint32_t pins; /* who holds a pointer without the lock: not forgotten meanwhile */
	bool is_dirty;
};

struct chunks {
	struct blocks *blocks;
	struct chunk **buckets;
	size_t count, count_max; /* clean chunks are forgotten beyond count_max */
	struct chunk recent;     /* ring heads; recent_next is the latest used */
	struct chunk dirty;
	size_t dirty_count;
};

bool chunks_open(struct chunks *chunks, struct blocks *blocks, size_t count_max);
void chunks_close(struct chunks *chunks);

uint32_t unit_bytes(uint32_t chunk_bytes);
/* Units that `stored_bytes` bytes take. */
uint32_t unit_count(const struct state *state);

/* NULL if the chunk is not in memory. */
struct chunk *chunks_find(struct chunks *chunks, const struct key *key);
/* Adds a chunk that is not in memory; NULL if memory is exhausted. May forget clean ones. */
struct chunk *chunks_add(struct chunks *chunks, const struct key *key);
/* Puts the chunk on or takes it off the list of dirty ones, as its states say. */
void chunks_judge(struct chunks *chunks, struct chunk *chunk);

/* A state with one reference, no place and room for the CRCs of `stored_bytes`; NULL if memory is exhausted. */
struct state *state_new(uint32_t chunk_bytes, uint32_t stored_bytes);
struct state *state_hold(struct state *state);
void state_drop(struct chunks *chunks, struct state *state);
/* *slot = state (which is given a reference); drops what was there. */
void state_set(struct chunks *chunks, struct state **slot, struct state *state);
/* A place with one reference; NULL if memory is exhausted. */
struct place *place_new(struct place_id id);

#endif
