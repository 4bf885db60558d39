/* A mount, and the way of its requests from /dev/fuse to Python.
 *
 * C threads read requests from the kernel and queue them; Python is woken through an eventfd, takes a batch and answers
 * each (fuse_answers.h). The payload of a large write stays in the buffer that the kernel filled. Nothing here decides
 * anything about files. */
#ifndef THREEFS_FUSE_BRIDGE_H
#define THREEFS_FUSE_BRIDGE_H

#include "fuse_requests.h"

/* cffi:begin */
struct bridge_options {
	const char *mount_options; /* of mount(8), joined with commas */
	uint32_t max_transfer;     /* bytes of one read or write request */
	uint32_t max_background;
	uint32_t max_readahead;
	uint32_t threads;
	double entry_timeout_s, attr_timeout_s, negative_timeout_s;
};

struct bridge;

/* NULL with `errno` set if the options or the mount are refused. */
struct bridge *bridge_mount(const char *mountpoint, const struct bridge_options *options);
/* Starts the receiving threads; 0 or an errno. */
int bridge_start(struct bridge *bridge);
/* Readable while requests wait. */
int bridge_event_fd(struct bridge *bridge);
/* Moves up to `most` waiting requests into `out`; the count. */
size_t bridge_take(struct bridge *bridge, struct bridge_request **out, size_t most);
/* 1 once the kernel has closed the connection (unmounted). */
int bridge_ended(struct bridge *bridge);
/* Takes the mount away, detached if it is busy; requests of files that are still open keep coming. */
void bridge_unmount(struct bridge *bridge);
/* Stops the threads, answers what is queued with EIO and frees everything. Requests in Python's hands must have
 * been answered before. */
void bridge_destroy(struct bridge *bridge);

/* Kernel caches: attributes and pages (offset < 0: attributes only), and a name. Neither may be called while a
 * request that touches the same object waits for an answer, except attributes only, which takes no lock. */
/* No descriptor of the file is open: all that was written to it is stored. */
void bridge_note_settled(struct bridge *bridge, uint64_t ino);

int bridge_invalidate_inode(struct bridge *bridge, uint64_t ino, int64_t offset, int64_t length);
int bridge_invalidate_entry(struct bridge *bridge, uint64_t parent, const char *name, size_t name_length);
/* cffi:end */

#endif
