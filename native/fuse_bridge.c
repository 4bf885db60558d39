#include "fuse_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fuse_answers.h"

enum { IDLE_BUFFERS_MAX = 16 }; /* of ~1 MiB each */

/* Of the process, because Python may keep a payload for longer than its bridge lives. */
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static void *idle_buffers[IDLE_BUFFERS_MAX];
static unsigned idle_count;

_Thread_local void *bridge_receiving;

/* ---- queue ---- */

static void signal_python(struct bridge *bridge)
{
	uint64_t one = 1;
	while (write(bridge->event_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* Under the lock. */
static void append(struct bridge *bridge, struct bridge_request *request)
{
	int was_empty = !bridge->first;
	if (was_empty)
		bridge->first = request;
	else
		bridge->last->next = request;
	bridge->last = request;
	request->queued = 1;
	if (was_empty)
		signal_python(bridge);
}

void bridge_enqueue(struct bridge *bridge, struct bridge_request *request)
{
	pthread_mutex_lock(&bridge->lock);
	append(bridge, request);
	if (request->early)
		append(bridge, request->early);
	request->early = NULL;
	pthread_mutex_unlock(&bridge->lock);
}

void bridge_enqueue_notice(struct bridge *bridge, struct bridge_request *notice, struct bridge_request *target)
{
	struct bridge_request *known = NULL;
	pthread_mutex_lock(&bridge->lock);
	if (target->queued) {
		append(bridge, notice);
	} else {
		known = target->early;
		target->early = notice;
	}
	pthread_mutex_unlock(&bridge->lock);
	if (known)
		bridge_free_notice(known);
}

size_t bridge_take(struct bridge *bridge, struct bridge_request **out, size_t most)
{
	size_t count = 0;
	uint64_t ignored;
	pthread_mutex_lock(&bridge->lock);
	while (count < most && bridge->first) {
		out[count] = bridge->first;
		bridge->first = bridge->first->next;
		out[count++]->next = NULL;
	}
	if (!bridge->first && !atomic_load(&bridge->ended) && read(bridge->event_fd, &ignored, sizeof ignored) < 0)
		ignored = 0; /* it was not set: nothing to reset */
	pthread_mutex_unlock(&bridge->lock);
	return count;
}

/* ---- files that were changed ---- */

static const uint64_t SEVERAL = UINT64_MAX; /* in a slot; 0: none */

static atomic_uint_fast64_t *slot_of(struct bridge *bridge, uint64_t ino)
{
	return &bridge->changed[(ino * 0x9e3779b97f4a7c15u >> 32) % CHANGED_SLOTS];
}

void bridge_note_changed(struct bridge *bridge, uint64_t ino)
{
	uint_fast64_t found = 0;
	atomic_uint_fast64_t *slot = slot_of(bridge, ino);
	if (!atomic_compare_exchange_strong(slot, &found, ino) && found != ino)
		atomic_store(slot, SEVERAL);
}

int bridge_is_changed(struct bridge *bridge, uint64_t ino)
{
	uint_fast64_t found = atomic_load(slot_of(bridge, ino));
	return found == ino || found == SEVERAL;
}

void bridge_note_settled(struct bridge *bridge, uint64_t ino)
{
	uint_fast64_t expected = ino;
	atomic_compare_exchange_strong(slot_of(bridge, ino), &expected, 0);
}

/* ---- memory ---- */

char *bridge_copy(const char *bytes, size_t length)
{
	char *copy = malloc(length + 1);
	if (copy) {
		memcpy(copy, bytes, length);
		copy[length] = 0;
	}
	return copy;
}

void *bridge_take_buffer(void)
{
	void *found = NULL; /* libfuse then allocates one of the right size */
	pthread_mutex_lock(&idle_lock);
	if (idle_count)
		found = idle_buffers[--idle_count];
	pthread_mutex_unlock(&idle_lock);
	return found;
}

static void give_buffer(void *buffer)
{
	pthread_mutex_lock(&idle_lock);
	if (idle_count < IDLE_BUFFERS_MAX) {
		idle_buffers[idle_count++] = buffer;
		buffer = NULL;
	}
	pthread_mutex_unlock(&idle_lock);
	free(buffer);
}

void bridge_free_payload(void *data, void *receive_buffer)
{
	if (receive_buffer)
		give_buffer(receive_buffer);
	else
		free(data);
}

void bridge_release_request(struct bridge_request *request)
{
	free((void *)(uintptr_t)request->name);
	free((void *)(uintptr_t)request->name_out);
	bridge_free_payload(request->data, request->receive_buffer);
	free(request);
}

void bridge_free_notice(struct bridge_request *notice)
{
	bridge_release_request(notice);
}

/* ---- session ---- */

static void *receive(void *argument)
{
	struct bridge *bridge = argument;
	struct fuse_buf buffer = { .mem = NULL };
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	while (!fuse_session_exited(bridge->session)) {
		if (!buffer.mem)
			buffer.mem = bridge_take_buffer();
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		int bytes = fuse_session_receive_buf(bridge->session, &buffer);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (bytes == -EINTR)
			continue;
		if (bytes <= 0)
			break;
		bridge_receiving = buffer.mem;
		fuse_session_process_buf(bridge->session, &buffer);
		buffer.mem = bridge_receiving;
	}
	free(buffer.mem);
	bridge_lookup_hang_up();
	atomic_store(&bridge->ended, 1);
	signal_python(bridge);
	return NULL;
}

static struct bridge *bridge_new(const char *mountpoint, const struct bridge_options *options)
{
	struct bridge *bridge = calloc(1, sizeof *bridge);
	if (!bridge)
		return NULL;
	bridge->options = *options;
	bridge->options.mount_options = NULL; /* the caller's memory */
	bridge->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bridge->mountpoint = bridge_copy(mountpoint, strlen(mountpoint));
	pthread_mutex_init(&bridge->lock, NULL);
	if (bridge->event_fd < 0 || !bridge->mountpoint) {
		bridge_destroy(bridge);
		return NULL;
	}
	return bridge;
}

struct bridge *bridge_mount(const char *mountpoint, const struct bridge_options *options)
{
	struct bridge *bridge = bridge_new(mountpoint, options);
	if (!bridge)
		return NULL;
	struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
	int refused = fuse_opt_add_arg(&arguments, "3fs") || fuse_opt_add_arg(&arguments, "-o") ||
		      fuse_opt_add_arg(&arguments, options->mount_options);
	errno = EINVAL;
	if (!refused)
		bridge->session = fuse_session_new(&arguments, &bridge_operations, sizeof bridge_operations, bridge);
	fuse_opt_free_args(&arguments);
	if (!bridge->session || fuse_session_mount(bridge->session, mountpoint)) {
		int number = errno;
		bridge_destroy(bridge);
		errno = number ? number : EIO;
		return NULL;
	}
	bridge->mounted = 1;
	return bridge;
}

int bridge_start(struct bridge *bridge)
{
	unsigned wanted = bridge->options.threads < THREADS_MAX ? bridge->options.threads : THREADS_MAX;
	while (bridge->thread_count < wanted) {
		int number = pthread_create(&bridge->threads[bridge->thread_count], NULL, receive, bridge);
		if (number)
			return number;
		bridge->thread_count++;
	}
	return 0;
}

int bridge_event_fd(struct bridge *bridge)
{
	return bridge->event_fd;
}

int bridge_ended(struct bridge *bridge)
{
	return atomic_load(&bridge->ended);
}

void bridge_unmount(struct bridge *bridge)
{
	if (bridge->mounted && umount2(bridge->mountpoint, UMOUNT_NOFOLLOW) && errno == EBUSY)
		umount2(bridge->mountpoint, UMOUNT_NOFOLLOW | MNT_DETACH);
	bridge->mounted = 0;
}

static void stop_threads(struct bridge *bridge)
{
	if (bridge->session)
		fuse_session_exit(bridge->session);
	for (unsigned i = 0; i < bridge->thread_count; i++)
		pthread_cancel(bridge->threads[i]);
	for (unsigned i = 0; i < bridge->thread_count; i++)
		pthread_join(bridge->threads[i], NULL);
	bridge->thread_count = 0;
}

void bridge_destroy(struct bridge *bridge)
{
	struct bridge_request *request;
	stop_threads(bridge);
	bridge_unmount(bridge);
	while (bridge_take(bridge, &request, 1)) {
		if (request->op == BRIDGE_INTERRUPT)
			bridge_free_notice(request);
		else
			bridge_reply_error(request, EIO);
	}
	if (bridge->session)
		fuse_session_destroy(bridge->session);
	if (bridge->event_fd >= 0)
		close(bridge->event_fd);
	pthread_mutex_destroy(&bridge->lock);
	free(bridge->mountpoint);
	free(bridge);
}

int bridge_invalidate_inode(struct bridge *bridge, uint64_t ino, int64_t offset, int64_t length)
{
	return -fuse_lowlevel_notify_inval_inode(bridge->session, ino, offset, length);
}

int bridge_invalidate_entry(struct bridge *bridge, uint64_t parent, const char *name, size_t name_length)
{
	return -fuse_lowlevel_notify_inval_entry(bridge->session, parent, name, name_length);
}
