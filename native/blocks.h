/* Block files: one a size class, 64 KiB … 64 MiB, grown by whole groups of blocks with `fallocate`.
 *
 * Two bitmaps a group. `live` says which blocks may not be handed out: those that any state in memory refers to.
 * `stored` says which ones the records on disk refer to, and is written with them in one transaction. A block is
 * live at least as long as it is stored. The engine's lock covers everything but the file descriptors. */
#ifndef THREEFS_BLOCKS_H
#define THREEFS_BLOCKS_H

#include "io_table.h"

enum {
	BLOCK_SHIFT_MIN = 16,
	BLOCK_SHIFT_MAX = 26,
	BLOCK_CLASSES = BLOCK_SHIFT_MAX - BLOCK_SHIFT_MIN + 1,
	GROUP_BLOCKS_MAX = 256,
	GROUP_BYTES = 64 << 20, /* of a group whose blocks would make it larger */
	GROUP_WORDS = GROUP_BLOCKS_MAX / 64,
	SECTOR = 4096, /* what a power loss may tear is at most one of these */
};

struct group {
	uint64_t live[GROUP_WORDS];
	uint64_t stored[GROUP_WORDS];
	uint32_t live_count;
	bool changed; /* `stored` differs from the record on disk */
	bool hollow;  /* nothing is live, and its space is the file system's again: to be allocated before use */
};

struct block_class {
	int write_fd, read_fd; /* O_DIRECT where possible; through the page cache */
	unsigned shift;
	uint32_t group_blocks;
	uint64_t group_count, group_room;
	struct group *groups;
	uint64_t first_free; /* no group before this one has a free block */
	uint64_t live_blocks;
};

struct blocks {
	const struct io_table *io;
	int folder_fd;
	uint32_t memory_align; /* of buffers that may be written without a copy */
	struct block_class classes[BLOCK_CLASSES];
};

struct place_id {
	uint32_t class_index;
	uint64_t block;
};

/* Opens or creates the files below `folder_fd`; 0 or an errno value. */
int blocks_open(struct blocks *blocks, const struct io_table *io, int folder_fd);
void blocks_close(struct blocks *blocks);
/* Smallest class whose blocks hold `bytes`. */
uint32_t blocks_class_for(uint64_t bytes);
uint64_t blocks_bytes(uint32_t class_index);
uint64_t blocks_group_bytes(const struct block_class *class);
uint64_t blocks_offset(struct place_id place);
/* A block that nobody uses, taken from existing groups only; false if there is none. */
bool blocks_take(struct blocks *blocks, uint32_t class_index, struct place_id *place);
/* A hollow group of the class, or the one to come after the last. */
uint64_t blocks_next_group(const struct blocks *blocks, uint32_t class_index);
/* Takes its space from the file system; 0 or an errno value. May take a millisecond: no lock is needed as long as
 * only one thread adds groups. */
int blocks_allocate_group(struct blocks *blocks, uint32_t class_index, uint64_t index);
/* Makes the allocated group's blocks free to be taken; false if memory is exhausted. */
bool blocks_add_group(struct blocks *blocks, uint32_t class_index, uint64_t index);
/* Gives the space of groups without live blocks back to the file system; returns the bytes. No transaction may be
 * under way: what is not stored must be so on disk. */
uint64_t blocks_release_empty(struct blocks *blocks);
void blocks_give_back(struct blocks *blocks, struct place_id place);
/* Recovery: group `index` has these stored (and so live) blocks; 0 or an errno value. */
int blocks_restore(struct blocks *blocks, uint32_t class_index, uint64_t index, const uint64_t stored[GROUP_WORDS]);
/* Recovery, after all groups: those that nothing is stored in give their space back, so that it is known whose it is.
 * 0 or an errno value. */
int blocks_restore_rest(struct blocks *blocks);
void blocks_set_stored(struct blocks *blocks, struct place_id place, bool stored);
bool blocks_is_stored(const struct blocks *blocks, struct place_id place);
/* Bytes of live blocks, and of free blocks in existing groups. */
void blocks_count(const struct blocks *blocks, uint64_t *live, uint64_t *idle);

#endif
