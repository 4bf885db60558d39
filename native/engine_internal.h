/* What the files of the engine share. `engine.h` is the contract with callers. */
#ifndef THREEFS_ENGINE_INTERNAL_H
#define THREEFS_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine.h"
#include "records.h"

enum {
	QUEUE_DEPTH = 128,
	GROUP_TASKS_MAX = 4096,
	GROUP_BOUNCE_BYTES = 32 << 20, /* copies that a group may hold in memory; one more may exceed it */
	DROP_STEP = 512,
	RESERVE_BYTES = 8 << 20,
};

enum { NOW_TASKS = 32 }; /* reads that share one turn of the lock */

enum batch_kind { BATCH_STAGE, BATCH_READ, BATCH_ORDER };

struct batch {
	struct batch *next;
	enum batch_kind kind;
	uint32_t count;
	uint64_t ticket; /* 0: nobody waits */
	union {
		struct engine_update *updates;
		struct engine_read *reads;
		struct engine_order *order;
	};
};

struct batch_list {
	struct batch *first, **last;
};

/* How the new content comes about. */
enum mode {
	MODE_SHARE,  /* no bytes are written: the base's block, or none */
	MODE_CUT,    /* the base's block, whose last unit must be read for its new CRC */
	MODE_APPEND, /* the base's block, beyond every byte that any state may refer to */
	MODE_FRESH,  /* a new block that the data fills from its beginning */
	MODE_COPY,   /* a new block: the base's content with the data laid over it */
};

/* One update on its way: what it is based on, what it will be, and its transfers. */
struct task {
	struct engine_update *update;
	struct chunk *chunk;
	struct state *base;  /* held, or NULL */
	struct state *state; /* held */
	enum mode mode;
	uint8_t *bounce; /* assembled content, or padding */
	size_t bounce_bytes;
	struct io_job read, write;
	bool reads, writes;
	int error;
};

struct commit_group {
	struct task *tasks;
	uint32_t count;
	size_t bounce_bytes;
	struct batch_list finished;
	bool touched[BLOCK_CLASSES];
};

/* One read: whole units are fetched, the caller's bytes straight into the caller's buffer. */
struct read_task {
	struct engine_read *op;
	struct state *state; /* held while there is something to fetch, else NULL */
	uint32_t first, last; /* bytes of the block that are fetched: whole units, or up to the end of what is stored */
	uint32_t head, body, tail; /* before, in and behind the caller's bytes; they sum up to last - first */
	uint8_t *bounce;           /* head and tail; everything if ENGINE_READ_DISK */
	uint8_t *body_at;
	uint32_t expected;
	struct io_job job;
};

struct target {
	uint64_t id;
	bool dropping;
};

/* Finished updates on their way to the disk. */
struct finished_list {
	struct engine_finished *items;
	size_t count, room;
};

/* A record to be written: what a chunk's stored states become. */
struct change {
	struct chunk *chunk;
	struct state *committed, *pending; /* held */
};

struct engine {
	pthread_mutex_t lock; /* chunks, blocks' bitmaps, queues, records' read transaction, targets, failure */
	pthread_cond_t work, read_work;
	pthread_t writer, reader;
	bool writer_runs, reader_runs, stopping;
	struct batch_list queue, read_queue, done;
	uint64_t last_ticket;
	int event_fd, folder_fd;
	const struct io_table *io;
	struct engine_options options;
	struct blocks blocks;
	struct chunks chunks;
	struct finished_list finished; /* since the last group was collected */
	struct records records;
	struct target *targets;
	uint32_t target_count, target_room;
	uint64_t chunk_count;
	uint64_t dirty_since_ms; /* 0: nothing waits for the next group */
	bool failed;
	char failure[256];
	/* of the writer thread */
	struct io_queue *write_queue;
	bool reserve_held;
	struct commit_group group;
	struct change *changes;
	size_t change_room;
	struct finished_list finishing; /* with the group that is being written */
	/* of the reader thread */
	struct io_queue *read_queue_io;
};

uint64_t now_ms(void);
uint64_t wall_us(void);

/* engine.c */
void batch_append(struct batch_list *list, struct batch *batch);
void engine_fail(struct engine *engine, const char *what, int status); /* with the lock */
struct target *target_find(struct engine *engine, uint64_t id);        /* with the lock */
int target_add(struct engine *engine, uint64_t id, bool dropping);     /* with the lock */
/* Finds or loads a chunk; with `create`, adds it if it does not exist. With the lock. */
int chunk_get(struct engine *engine, const struct key *key, bool create, struct chunk **chunk);
void chunk_touch(struct engine *engine, struct chunk *chunk); /* judges it and starts the flush timer */
void complete(struct engine *engine, struct batch_list *list);

/* engine_stage.c: the writer thread's plan for one update, and its data. */
int stage_begin(struct engine *engine, struct task *task);
void stage_continue(struct engine *engine, struct task *task); /* after the read of its base */
void stage_seal(struct task *task); /* the CRC of the whole content */
/* With the lock: drops what the task holds; the state becomes pending unless the task failed. */
void stage_end(struct engine *engine, struct task *task);

/* engine_query.c */
void meta_of(const struct state *committed, const struct state *pending, struct engine_meta *meta);

/* engine_flush.c. The reserve is a file whose space is let go when the disk is full, so that records of removals
 * can still be written; while it is missing, nothing but removals is taken. Writer thread, or before it runs. */
void reserve_take(struct engine *engine);
void reserve_release(struct engine *engine);
int flush_records(struct engine *engine);

/* engine_finished.c; with the lock. A commit is noted before it happens: false if memory is exhausted. */
bool finished_note(struct engine *engine, uint64_t target, const struct state *state, uint64_t chain_version);
void finished_collect(struct engine *engine);              /* for the group to be written */
void finished_settle(struct engine *engine, bool written); /* if not written, the next group has them */
int finished_put(struct engine *engine, MDB_txn *txn);     /* without the lock */

/* engine_list.c: up to `max` keys of a target's records; with the lock. */
uint32_t target_keys(struct engine *engine, uint64_t id, struct key *keys, uint32_t max);


/* engine_writer.c, engine_reader.c. Begin and end with the lock; in between, without it, `read_cached` tries without the disk. */
void read_begin(struct engine *engine, struct read_task *task, struct engine_read *op);
void read_cached(struct engine *engine, struct read_task *task);
void read_end(struct engine *engine, struct read_task *task);
void *writer_main(void *engine);
void *reader_main(void *engine);
void group_finish(struct engine *engine);

/* engine_recover.c */
int recover(struct engine *engine, struct engine_report *report);

#endif
