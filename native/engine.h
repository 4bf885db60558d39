/* The chunk engine: one folder's chunks, with committed and pending states. storage/engine.py states its promises.
 *
 * Callers hand in arrays of descriptors and get a ticket; a writer thread and a reader thread carry them out and raise
 * the event descriptor; `engine_reap` gives the tickets that are done, whose results then stand in the descriptors.
 * Descriptors and the memory they point to must stay until then. What needs no disk (commit, query, and reads that
 * the page cache answers) is done on the caller's thread at once. Any thread may call.
 *
 * Writes: all stage batches that wait form a group. Their data goes to blocks that nothing on disk refers to yet, one
 * fdatasync for each file touched, then one LMDB transaction holds the pending records together with all commits and
 * removals since the last group. Thus a crash shows either none or all of a group's records, data included. */
#ifndef THREEFS_ENGINE_H
#define THREEFS_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
enum engine_error {
	ENGINE_OK,
	ENGINE_UNFINISHED,   /* engine_read_now: the disk is needed */
	ENGINE_NO_TARGET,
	ENGINE_STALE,        /* detail: the committed version */
	ENGINE_MISSING,      /* detail: the committed version */
	ENGINE_BAD_REQUEST,  /* out of range, or another chunk_bytes than the chunk has (detail: that) */
	ENGINE_DATA_CRC,     /* the data differs from the CRC given with it; detail: its CRC */
	ENGINE_DISK_CRC,     /* a unit on disk differs from its stored CRC; detail: the unit's index */
	ENGINE_CORRUPT,      /* the chunk's record does not parse */
	ENGINE_NO_SPACE,
	ENGINE_NO_MEMORY,
	ENGINE_DISK_FAILED,
};

enum engine_update_kind { ENGINE_WRITE = 1, ENGINE_REPLACE, ENGINE_TRUNCATE, ENGINE_EXTEND, ENGINE_REMOVE };
enum engine_read_flag { ENGINE_READ_PENDING = 1, ENGINE_READ_DISK = 2 /* past the page cache: scrubbing */ };
enum engine_option_flag { ENGINE_PLAIN_IO = 1 };
enum engine_control { ENGINE_SYNC = 1, ENGINE_CREATE_TARGET, ENGINE_DROP_TARGET, ENGINE_CHECK, ENGINE_ABORT };

struct engine_options {
	const char *folder;
	uint64_t capacity_bytes; /* 0: what the file system has */
	uint32_t use_permille_max; /* creates are refused beyond this share of the capacity */
	uint32_t flush_delay_ms; /* a commit alone reaches the disk after this time at the latest */
	uint32_t cache_chunks;   /* clean chunks whose state stays in memory */
	uint32_t flags;
};

struct engine_report {
	int32_t error;
	char message[256];
	const char *io;          /* "io_uring" or "plain" */
	uint64_t chunk_count, pending_count, damaged_count;
	uint64_t dropping_count; /* targets whose removal goes on */
	uint64_t damaged_target;
	uint8_t damaged_chunk[16];
};

struct engine_ticket { /* who asked for an update; sequence 0: nobody who would ask again */
	uint8_t client[16];
	uint64_t sequence;
	uint32_t channel;
	uint32_t reserved;
};

struct engine_update {
	uint64_t target;
	uint8_t chunk[16];
	uint64_t version, chain_version;
	const void *data;
	uint32_t offset;
	uint32_t bytes; /* of `data`; the wanted length for TRUNCATE and EXTEND */
	uint32_t chunk_bytes;
	uint32_t crc32c; /* of `data`, if has_crc */
	uint32_t kind, has_crc;
	int32_t error;
	uint32_t length, state_crc32c; /* of the whole pending content */
	uint32_t reserved;
	uint64_t detail;
	struct engine_ticket ticket; /* stays with the state */
};

struct engine_read {
	uint64_t target;
	uint8_t chunk[16];
	void *buffer;
	uint32_t offset, bytes, flags;
	int32_t error;
	uint64_t committed, pending, chain_version;
	uint32_t length, crc32c; /* of what was put into `buffer` */
	uint64_t detail;
};

struct engine_commit {
	uint64_t target;
	uint8_t chunk[16];
	uint64_t version, chain_version;
	int32_t error;
	uint32_t reserved;
	uint64_t detail;
};

struct engine_meta {
	uint64_t target;
	uint8_t chunk[16];
	uint64_t committed, chain_version, pending, pending_chain_version, modified_us;
	uint32_t length, crc32c, pending_length, pending_crc32c, pending_remove, chunk_bytes;
	int32_t error;
	uint32_t found;
	struct engine_ticket ticket, pending_ticket;
};

struct engine_finished { /* the newest committed update of one client's channel; sequence 0: to be forgotten */
	uint64_t target;
	struct engine_ticket ticket;
	uint64_t version, chain_version, finished_us;
	uint32_t length, crc32c;
};

struct engine_order { /* one administrative request */
	uint32_t kind;
	int32_t error;
	uint64_t target, version;
	uint8_t chunk[16];
};

struct engine_space {
	uint64_t capacity_bytes, free_bytes, used_bytes, chunk_count;
};

/* What a read of a frame may touch: targets that serve now, under the chain version that they serve with. */
struct engine_grant {
	uint64_t target, chain_version;
	uint32_t chain;
	uint32_t is_authority; /* may answer although a newer version is pending */
};

/* Descriptors of a read frame as proto/data_plane.py lays them out. */
struct engine_frame_read {
	uint64_t target;
	uint32_t chain, flags;
	uint64_t chain_version;
	uint8_t chunk[16];
	uint32_t offset, bytes;
};

struct engine_frame_reply {
	uint16_t status, message_bytes;
	uint32_t bytes, crc32c, reserved;
	uint64_t version;
};

struct engine;

/* NULL on failure: report->error is an engine_error, report->message says what and where. */
struct engine *engine_open(const struct engine_options *options, struct engine_report *report);
/* Finishes what was submitted, makes commits durable, frees everything. */
void engine_close(struct engine *engine);
int engine_event_fd(const struct engine *engine);
/* Up to `max` tickets that are done; clears the event descriptor when none is left. */
uint32_t engine_reap(struct engine *engine, uint64_t *tickets, uint32_t max);

uint64_t engine_stage(struct engine *engine, struct engine_update *updates, uint32_t count);
uint64_t engine_read(struct engine *engine, struct engine_read *reads, uint32_t count);
uint64_t engine_order(struct engine *engine, struct engine_order *order);

/* Answers what the page cache holds; returns how many are left as ENGINE_UNFINISHED, for `engine_read`. */
uint32_t engine_read_now(struct engine *engine, struct engine_read *reads, uint32_t count);
/* Answers a whole frame at once: `replies` gets a descriptor for each read, `data` their bytes one after the other.
 * Returns the number of bytes, or -1 if any read needs the disk, a closer look or an error: then nothing was said. */
int64_t engine_read_frame(struct engine *engine, const void *reads, uint32_t count, const struct engine_grant *grants,
			  uint32_t grant_count, uint8_t *data, uint64_t data_bytes, void *replies);
void engine_commit(struct engine *engine, struct engine_commit *commits, uint32_t count);
/* Fills what `found` says exists; target and chunk are given. */
void engine_query(struct engine *engine, struct engine_meta *metas, uint32_t count);
/* Chunks with begin <= id < end in order (descending if `reverse`); returns how many were put into `metas`, or a
 * negative engine_error. */
int64_t engine_list(struct engine *engine, uint64_t target, const uint8_t *begin, const uint8_t *end, uint32_t limit,
		    int reverse, struct engine_meta *metas);
/* Up to `limit` of a target's finished updates, by client and channel, those behind `after` (NULL: all), as of the last
 * group; or a negative engine_error. */
int64_t engine_list_finished(struct engine *engine, uint64_t target, const struct engine_ticket *after, uint32_t limit,
			     struct engine_finished *found);
/* Notes what was finished elsewhere, or what may be forgotten: durable with the next group. An engine_error. */
int engine_remember(struct engine *engine, const struct engine_finished *finished, uint32_t count);
void engine_space(struct engine *engine, struct engine_space *space);
uint32_t engine_targets(struct engine *engine, uint64_t *targets, uint32_t max);
/* What the disk said when it failed; "" if it works. The text lives as long as the engine. */
const char *engine_failure(struct engine *engine);
/* Counts every block that records and bitmaps disagree on, or that two chunks claim; 0 is healthy. Waits for the
 * group in progress; `message` gets the first finding. */
uint64_t engine_audit(struct engine *engine, char *message, uint32_t message_bytes);
/* cffi:end */

#endif
