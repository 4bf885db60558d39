/* The engine's records: an LMDB environment with six tables.
 *
 *   committed  key -> state      key: BE64 target, 16 bytes chunk id, so that a target's chunks sort by id
 *   pending    key -> state      the update that is in flight on a chunk
 *   groups     BE32 class, BE64 index -> `stored` bitmap of the group, 4 little-endian words
 *   targets    BE64 target -> 1 byte: 0 in use, 1 being dropped
 *   finished   BE64 target, 16 bytes client, BE32 channel -> `struct finished_record`: the newest committed update
 *   info       "format" -> LE32, of the layout described here
 *
 * A state is a `struct record` (little-endian) followed by one LE32 CRC32C a unit. All changes of one group commit
 * share a transaction: records and bitmaps never disagree, and what is committed is in `finished`. Reads use one read
 * transaction, under the engine's lock. */
#ifndef THREEFS_RECORDS_H
#define THREEFS_RECORDS_H

#include <lmdb.h>

#include "chunks.h"

enum { RECORDS_FORMAT = 2 };
enum record_table { TABLE_COMMITTED, TABLE_PENDING, TABLE_GROUPS, TABLE_TARGETS, TABLE_FINISHED, TABLE_INFO, TABLE_COUNT };

struct record {
	uint64_t version, chain_version, modified_us;
	uint64_t block;
	uint32_t class_index; /* NO_PLACE: no block */
	uint32_t length, stored_bytes, crc32c, chunk_bytes, flags;
	uint32_t channel; /* with sequence and client: the ticket of the update */
	uint32_t record_crc; /* CRC32C of key, this struct with 0 here, and the units' CRCs */
	uint64_t sequence;
	uint8_t client[16];
};

struct finished_record {
	uint64_t sequence, version, chain_version, finished_us;
	uint32_t length, crc32c;
};

enum { NO_PLACE = UINT32_MAX, STATUS_CORRUPT = -1, STATUS_FORMAT = -2 };

struct records {
	MDB_env *env;
	MDB_dbi tables[TABLE_COUNT];
	MDB_txn *reader;
};

/* All return 0, an errno value, STATUS_CORRUPT, or an LMDB code (negative); records_message explains each. */
int records_open(struct records *records, const char *folder);
void records_close(struct records *records);
const char *records_message(int status);

/* Brackets reads: what lies between sees one snapshot, the latest commit at `begin`. */
int records_read_begin(struct records *records);
void records_read_end(struct records *records);

/* *state is NULL if there is no record; else a state without place, whose block is in *id if it has one. */
int records_load(struct records *records, enum record_table table, const struct key *key, struct state **state,
		 struct place_id *id);
int records_decode(const MDB_val *raw_key, const MDB_val *raw, struct key *key, struct state **state,
		   struct place_id *id);
int records_decode_key(const MDB_val *raw_key, struct key *key);
/* First key of `table` at or after `begin` (at or before, if `reverse`); found says whether there is one.
 * Further steps: `next` true. */
int records_seek(MDB_cursor *cursor, const struct key *begin, bool reverse, bool next, MDB_val *raw_key, MDB_val *raw);

int records_write_begin(struct records *records, MDB_txn **txn);
int records_put(struct records *records, MDB_txn *txn, enum record_table table, const struct key *key,
		const struct state *state);
int records_delete(struct records *records, MDB_txn *txn, enum record_table table, const struct key *key);
int records_put_group(struct records *records, MDB_txn *txn, uint32_t class_index, uint64_t index,
		      const uint64_t stored[GROUP_WORDS]);
int records_put_target(struct records *records, MDB_txn *txn, uint64_t target, uint8_t dropping);
int records_delete_target(struct records *records, MDB_txn *txn, uint64_t target);
/* Keeps what is stored if that is of a later update; sequence 0 deletes. */
int records_put_finished(struct records *records, MDB_txn *txn, const struct engine_finished *finished);
/* First record of the target behind `after` (NULL: at all), with `next` the following one; MDB_NOTFOUND at the end. */
int records_seek_finished(MDB_cursor *cursor, uint64_t target, const struct engine_ticket *after, bool next,
			  struct engine_finished *found);

#endif
