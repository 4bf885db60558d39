/* What the three files of the bridge share; Python does not see it. */
#ifndef THREEFS_FUSE_INTERNAL_H
#define THREEFS_FUSE_INTERNAL_H

#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "fuse_bridge.h"

enum { THREADS_MAX = 16, CHANGED_SLOTS = 4096, OPEN_SLOTS = 4096 };

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
	atomic_uint open_slots[OPEN_SLOTS];           /* how many inodes of each slot are open */
	struct sockaddr_storage meta_address;         /* under `lock` */
	socklen_t meta_address_bytes;
	uint32_t meta_generations;
	atomic_uint_fast32_t meta_generation; /* of the daemon that lookups are asked of; 0: none */
	atomic_uint_fast64_t lookups;
	pthread_t threads[THREADS_MAX];
	unsigned thread_count;
};

/* The handlers, for fuse_session_new with a `struct bridge` as user data. */
extern const struct fuse_lowlevel_ops bridge_operations;

/* The buffer that this thread received the current request in; NULL once a request has taken it over. */
extern _Thread_local void *bridge_receiving;

/* Appends to the queue and wakes Python. */
void bridge_enqueue(struct bridge *bridge, struct bridge_request *request);

/* The same for the BRIDGE_INTERRUPT of `target`, which has not been answered: it goes behind its request, also if that
 * is only about to be queued. */
void bridge_enqueue_notice(struct bridge *bridge, struct bridge_request *notice, struct bridge_request *target);

/* Files whose content was changed since they were last settled: until then closing them is Python's business, and
 * closing others, nearly all that are only created or read, is answered here. An inode has one slot of a table; a slot
 * that two inodes would need at a time says "changed" of every inode from then on. */
void bridge_note_changed(struct bridge *bridge, uint64_t ino);
int bridge_is_changed(struct bridge *bridge, uint64_t ino);

/* Answers a lookup by asking the metadata daemon (fuse_lookup.h); 0: it was not answered, Python has to. */
int bridge_lookup(fuse_req_t req, uint64_t parent, const char *name);
/* A receiving thread ends. */
void bridge_lookup_hang_up(void);

/* What the kernel is told of a name. */
void bridge_fill_entry(struct fuse_entry_param *entry, const struct bridge *bridge, const struct bridge_attr *attr);

/* Receive buffers that wait for the next large writes; NULL if there is none: libfuse then allocates one. */
void *bridge_take_buffer(void);

/* Frees a request whose answer has been sent, or that needs none. */
void bridge_release_request(struct bridge_request *request);

/* A copy with a zero behind it; NULL if there is no memory. */
char *bridge_copy(const char *bytes, size_t length);

#endif
