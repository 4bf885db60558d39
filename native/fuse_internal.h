/* What the three files of the bridge share; Python does not see it. */
#ifndef THREEFS_FUSE_INTERNAL_H
#define THREEFS_FUSE_INTERNAL_H

#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fuse_bridge.h"

enum { THREADS_MAX = 16, CHANGED_SLOTS = 4096 };

struct bridge {
	struct fuse_session *session;
	struct bridge_options options;
	char *mountpoint;
	int mounted;
	int event_fd;
	atomic_int ended;
	atomic_uint_fast64_t next_id;
	pthread_mutex_t lock; /* guards the queue */
	struct bridge_request *first, *last;
	atomic_uint_fast64_t changed[CHANGED_SLOTS]; /* see bridge_note_changed */
	pthread_t threads[THREADS_MAX];
	unsigned thread_count;
};

/* The handlers, for fuse_session_new with a `struct bridge` as user data. */
extern const struct fuse_lowlevel_ops bridge_operations;

/* The buffer that this thread received the current request in; NULL once a request has taken it over. */
extern _Thread_local void *bridge_receiving;

/* Appends to the queue and wakes Python. */
void bridge_enqueue(struct bridge *bridge, struct bridge_request *request);

/* Files whose content was changed since they were last settled: until then closing them is Python's business, and
 * closing others, nearly all that are only created or read, is answered here. An inode has one slot of a table; a slot
 * that two inodes would need at a time says "changed" of every inode from then on. */
void bridge_note_changed(struct bridge *bridge, uint64_t ino);
int bridge_is_changed(struct bridge *bridge, uint64_t ino);

/* Receive buffers that wait for the next large writes; NULL if there is none: libfuse then allocates one. */
void *bridge_take_buffer(void);

/* Frees a request whose answer has been sent, or that needs none. */
void bridge_release_request(struct bridge_request *request);

/* A copy with a zero behind it; NULL if there is no memory. */
char *bridge_copy(const char *bytes, size_t length);

#endif
