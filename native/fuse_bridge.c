#define FUSE_USE_VERSION 312
#include "fuse_bridge.h"

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
	THREADS_MAX = 16,
	IDLE_BUFFERS_MAX = 16,       /* receive buffers of ~1 MiB kept for the next writes */
	PAYLOAD_COPY_MAX = 64 << 10, /* below this a copy is cheaper than giving a whole receive buffer away */
	NAME_MAX_BYTES = 255,
};

struct bridge {
	struct fuse_session *session;
	struct bridge_options options;
	char *mountpoint;
	int mounted;
	int event_fd;
	atomic_int ended;
	atomic_uint_fast64_t next_id;
	pthread_mutex_t lock; /* guards everything below */
	struct bridge_request *first, *last;
	pthread_t threads[THREADS_MAX];
	unsigned thread_count;
};

/* Receive buffers that wait for the next large writes. Of the process, because Python may keep a payload for longer
 * than its bridge lives. */
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static void *idle_buffers[IDLE_BUFFERS_MAX];
static unsigned idle_count;

/* The buffer that this thread received the current request in; NULL once a request has taken it over. */
static _Thread_local void *receiving;

/* ---- queue ---- */

static void signal_python(struct bridge *bridge)
{
	uint64_t one = 1;
	while (write(bridge->event_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static void enqueue(struct bridge *bridge, struct bridge_request *request)
{
	pthread_mutex_lock(&bridge->lock);
	int was_empty = !bridge->first;
	if (was_empty)
		bridge->first = request;
	else
		bridge->last->next = request;
	bridge->last = request;
	if (was_empty)
		signal_python(bridge);
	pthread_mutex_unlock(&bridge->lock);
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

static void *take_buffer(void)
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

/* ---- requests ---- */

static void on_interrupt(fuse_req_t req, void *data)
{
	struct bridge_request *target = data;
	struct bridge *bridge = fuse_req_userdata(req);
	struct bridge_request *notice = calloc(1, sizeof *notice);
	if (!notice)
		return; /* the request simply is not interrupted */
	notice->id = target->id;
	notice->op = BRIDGE_INTERRUPT;
	enqueue(bridge, notice);
}

static char *copy_of(const char *bytes, size_t length)
{
	char *copy = malloc(length + 1);
	if (copy) {
		memcpy(copy, bytes, length);
		copy[length] = 0;
	}
	return copy;
}

/* A request with its header filled in; answers ENOMEM itself and returns NULL if there is no memory. */
static struct bridge_request *begin(fuse_req_t req, enum bridge_op op, fuse_ino_t ino, const char *name,
				    const char *name_out)
{
	struct bridge *bridge = fuse_req_userdata(req);
	const struct fuse_ctx *context = fuse_req_ctx(req);
	struct bridge_request *request = calloc(1, sizeof *request);
	if (!request) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	request->id = atomic_fetch_add(&bridge->next_id, 1) + 1;
	request->op = op;
	request->uid = context->uid;
	request->gid = context->gid;
	request->pid = (uint32_t)context->pid;
	request->ino = ino;
	request->handle = req;
	if (name) {
		request->name_length = strlen(name);
		request->name = copy_of(name, request->name_length);
	}
	if (name_out) {
		request->name_out_length = strlen(name_out);
		request->name_out = copy_of(name_out, request->name_out_length);
	}
	if ((name && !request->name) || (name_out && !request->name_out)) {
		bridge_reply_error(request, ENOMEM);
		return NULL;
	}
	return request;
}

static void submit(struct bridge_request *request)
{
	enqueue(fuse_req_userdata(request->handle), request);
}

/* Only what may wait long can be interrupted; everything else ends soon by itself. The callback is set before the
 * request can be answered by another thread. */
static void submit_interruptible(struct bridge_request *request)
{
	fuse_req_interrupt_func(request->handle, on_interrupt, request);
	submit(request);
}

static void release_request(struct bridge_request *request)
{
	free((void *)(uintptr_t)request->name);
	free((void *)(uintptr_t)request->name_out);
	bridge_free_payload(request->data, request->receive_buffer);
	free(request);
}

void bridge_free_notice(struct bridge_request *notice)
{
	release_request(notice);
}

/* ---- what the kernel asks, in the order of bridge_op ---- */

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct bridge_request *request = begin(req, BRIDGE_LOOKUP, parent, name, NULL);
	if (request)
		submit(request);
}

static void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	fuse_reply_none(req); /* inode numbers are the cluster's: nothing is kept for the kernel */
}

static void on_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	on_forget(req, 0, 0);
}

static void submit_handle(fuse_req_t req, enum bridge_op op, fuse_ino_t ino, const struct fuse_file_info *file,
			  uint32_t flags)
{
	struct bridge_request *request = begin(req, op, ino, NULL, NULL);
	if (!request)
		return;
	if (file) {
		request->fh = file->fh;
		request->valid = BRIDGE_SET_HANDLE;
	}
	request->flags = flags;
	submit(request);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_GETATTR, ino, file, 0);
}

static int64_t microseconds(const struct timespec *time)
{
	return (int64_t)time->tv_sec * 1000000 + time->tv_nsec / 1000;
}

static uint32_t valid_of(int to_set)
{
	static const struct { int fuse; uint32_t bridge; } map[] = {
		{ FUSE_SET_ATTR_MODE, BRIDGE_SET_MODE }, { FUSE_SET_ATTR_UID, BRIDGE_SET_UID },
		{ FUSE_SET_ATTR_GID, BRIDGE_SET_GID }, { FUSE_SET_ATTR_SIZE, BRIDGE_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, BRIDGE_SET_ATIME }, { FUSE_SET_ATTR_MTIME, BRIDGE_SET_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, BRIDGE_SET_ATIME_NOW }, { FUSE_SET_ATTR_MTIME_NOW, BRIDGE_SET_MTIME_NOW },
	};
	uint32_t valid = 0;
	for (size_t i = 0; i < sizeof map / sizeof *map; i++)
		if (to_set & map[i].fuse)
			valid |= map[i].bridge;
	return valid;
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_SETATTR, ino, NULL, NULL);
	if (!request)
		return;
	request->valid = valid_of(to_set);
	request->attr.mode = attr->st_mode;
	request->attr.uid = attr->st_uid;
	request->attr.gid = attr->st_gid;
	request->attr.size = (uint64_t)attr->st_size;
	request->attr.atime_us = microseconds(&attr->st_atim);
	request->attr.mtime_us = microseconds(&attr->st_mtim);
	if (file) {
		request->fh = file->fh;
		request->valid |= BRIDGE_SET_HANDLE;
	}
	submit(request);
}

static void on_readlink(fuse_req_t req, fuse_ino_t ino)
{
	submit_handle(req, BRIDGE_READLINK, ino, NULL, 0);
}

static void submit_made(fuse_req_t req, enum bridge_op op, fuse_ino_t parent, const char *name, mode_t mode,
			dev_t rdev, int flags)
{
	struct bridge_request *request = begin(req, op, parent, name, NULL);
	if (!request)
		return;
	request->attr.mode = mode;
	request->attr.rdev = rdev;
	request->flags = (uint32_t)flags;
	submit(request);
}

static void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	submit_made(req, BRIDGE_MKNOD, parent, name, mode, rdev, 0);
}

static void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	submit_made(req, BRIDGE_MKDIR, parent, name, mode, 0, 0);
}

static void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *file)
{
	submit_made(req, BRIDGE_CREATE, parent, name, mode, 0, file->flags);
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit_made(req, BRIDGE_UNLINK, parent, name, 0, 0, 0);
}

static void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit_made(req, BRIDGE_RMDIR, parent, name, 0, 0, 0);
}

static void on_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct bridge_request *request = begin(req, BRIDGE_SYMLINK, parent, name, target);
	if (request)
		submit(request);
}

static void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent_out,
		      const char *name_out, unsigned int flags)
{
	struct bridge_request *request = begin(req, BRIDGE_RENAME, parent, name, name_out);
	if (!request)
		return;
	request->ino_out = parent_out;
	request->flags = flags;
	submit(request);
}

static void on_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent_out, const char *name_out)
{
	struct bridge_request *request = begin(req, BRIDGE_LINK, ino, NULL, name_out);
	if (!request)
		return;
	request->ino_out = parent_out;
	submit(request);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_OPEN, ino, file, (uint32_t)file->flags);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_READ, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->size = size;
	request->offset = offset;
	request->flags = (uint32_t)file->flags;
	submit_interruptible(request);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_WRITE, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->size = size;
	request->offset = offset;
	request->flags = (uint32_t)file->flags;
	request->data_length = size;
	if (size >= PAYLOAD_COPY_MAX) {
		request->data = (void *)(uintptr_t)data;
		request->receive_buffer = receiving;
		receiving = NULL;
	} else if (!(request->data = copy_of(data, size))) {
		bridge_reply_error(request, ENOMEM);
		return;
	}
	submit(request);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_FLUSH, ino, file, 0);
}

static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_RELEASE, ino, file, (uint32_t)file->flags);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_FSYNC, ino, file, data_only != 0);
}

static void on_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_OPENDIR, ino, file, (uint32_t)file->flags);
}

static void submit_listing(fuse_req_t req, enum bridge_op op, fuse_ino_t ino, size_t size, off_t offset,
			   const struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, op, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->size = size;
	request->offset = offset;
	submit(request);
}

static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
	submit_listing(req, BRIDGE_READDIR, ino, size, offset, file);
}

static void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
	submit_listing(req, BRIDGE_READDIRPLUS, ino, size, offset, file);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_RELEASEDIR, ino, file, 0);
}

static void on_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *file)
{
	submit_handle(req, BRIDGE_FSYNCDIR, ino, file, 0);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
	submit_handle(req, BRIDGE_STATFS, ino, NULL, 0);
}

/* The kernel asks for security.capability at every write and for ACLs at many calls. The file system keeps
 * neither, and saying so here spares Python a request each. */
static int is_foreign_xattr(const char *name)
{
	return !strncmp(name, "security.", 9) || !strncmp(name, "system.", 7);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	if (is_foreign_xattr(name)) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	struct bridge_request *request = begin(req, BRIDGE_SETXATTR, ino, name, NULL);
	if (!request)
		return;
	request->flags = (uint32_t)flags;
	request->data_length = size;
	if (!(request->data = copy_of(value, size))) {
		bridge_reply_error(request, ENOMEM);
		return;
	}
	submit(request);
}

static void submit_xattr(fuse_req_t req, enum bridge_op op, fuse_ino_t ino, const char *name, size_t size)
{
	struct bridge_request *request = begin(req, op, ino, name, NULL);
	if (!request)
		return;
	request->size = size;
	submit(request);
}

static void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (is_foreign_xattr(name))
		fuse_reply_err(req, strncmp(name, "system.", 7) ? ENODATA : EOPNOTSUPP);
	else
		submit_xattr(req, BRIDGE_GETXATTR, ino, name, size);
}

static void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	submit_xattr(req, BRIDGE_LISTXATTR, ino, NULL, size);
}

static void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	if (is_foreign_xattr(name))
		fuse_reply_err(req, ENODATA);
	else
		submit_xattr(req, BRIDGE_REMOVEXATTR, ino, name, 0);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_FALLOCATE, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->flags = (uint32_t)mode;
	request->offset = offset;
	request->size = (uint64_t)length;
	submit(request);
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_LSEEK, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->offset = offset;
	request->flags = (uint32_t)whence;
	submit(request);
}

static void on_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t offset, struct fuse_file_info *file,
			       fuse_ino_t ino_out, off_t offset_out, struct fuse_file_info *file_out, size_t size,
			       int flags)
{
	struct bridge_request *request = begin(req, BRIDGE_COPY_FILE_RANGE, ino, NULL, NULL);
	if (!request)
		return;
	request->fh = file->fh;
	request->offset = offset;
	request->ino_out = ino_out;
	request->fh_out = file_out->fh;
	request->offset_out = offset_out;
	request->size = size;
	request->flags = (uint32_t)flags;
	submit_interruptible(request);
}

/* ---- session ---- */

static void on_init(void *userdata, struct fuse_conn_info *connection)
{
	const struct bridge *bridge = userdata;
	const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
				FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ATOMIC_O_TRUNC |
				FUSE_CAP_AUTO_INVAL_DATA;
	/* No splicing: payloads are wanted in memory, where Python and the network find them. */
	connection->want = connection->capable & wanted;
	connection->max_write = bridge->options.max_transfer;
	connection->max_read = bridge->options.max_transfer;
	connection->max_readahead = bridge->options.max_readahead;
	connection->max_background = bridge->options.max_background;
	connection->congestion_threshold = bridge->options.max_background * 3 / 4;
	connection->time_gran = 1000; /* inodes keep microseconds */
}

static const struct fuse_lowlevel_ops operations = {
	.init = on_init,
	.lookup = on_lookup,
	.forget = on_forget,
	.forget_multi = on_forget_multi,
	.getattr = on_getattr,
	.setattr = on_setattr,
	.readlink = on_readlink,
	.mknod = on_mknod,
	.mkdir = on_mkdir,
	.unlink = on_unlink,
	.rmdir = on_rmdir,
	.symlink = on_symlink,
	.rename = on_rename,
	.link = on_link,
	.open = on_open,
	.read = on_read,
	.write = on_write,
	.flush = on_flush,
	.release = on_release,
	.fsync = on_fsync,
	.opendir = on_opendir,
	.readdir = on_readdir,
	.readdirplus = on_readdirplus,
	.releasedir = on_releasedir,
	.fsyncdir = on_fsyncdir,
	.statfs = on_statfs,
	.setxattr = on_setxattr,
	.getxattr = on_getxattr,
	.listxattr = on_listxattr,
	.removexattr = on_removexattr,
	.create = on_create,
	.fallocate = on_fallocate,
	.lseek = on_lseek,
	.copy_file_range = on_copy_file_range,
};

static void *receive(void *argument)
{
	struct bridge *bridge = argument;
	struct fuse_buf buffer = { .mem = NULL };
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	while (!fuse_session_exited(bridge->session)) {
		if (!buffer.mem)
			buffer.mem = take_buffer();
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		int bytes = fuse_session_receive_buf(bridge->session, &buffer);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (bytes == -EINTR)
			continue;
		if (bytes <= 0)
			break;
		receiving = buffer.mem;
		fuse_session_process_buf(bridge->session, &buffer);
		buffer.mem = receiving;
	}
	free(buffer.mem);
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
	bridge->mountpoint = copy_of(mountpoint, strlen(mountpoint));
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
		bridge->session = fuse_session_new(&arguments, &operations, sizeof operations, bridge);
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

/* ---- answers ---- */

/* Sends the answer, then frees the request. The handle dies with the answer; its interrupt callback is taken away
 * before, so that it never finds a freed request. */
#define ANSWER(request, call)                              \
	do {                                               \
		fuse_req_t req = (request)->handle;        \
		fuse_req_interrupt_func(req, NULL, NULL);  \
		int result = -(call);                      \
		release_request(request);                  \
		return result;                             \
	} while (0)

static void fill_stat(struct stat *stat, const struct bridge_attr *attr)
{
	*stat = (struct stat){
		.st_ino = attr->ino, .st_mode = attr->mode, .st_nlink = attr->nlink, .st_uid = attr->uid,
		.st_gid = attr->gid, .st_rdev = attr->rdev, .st_size = (off_t)attr->size, .st_blksize = 1 << 20,
		.st_blocks = (blkcnt_t)attr->blocks,
	};
	const int64_t us[3] = { attr->atime_us, attr->mtime_us, attr->ctime_us };
	struct timespec *times[3] = { &stat->st_atim, &stat->st_mtim, &stat->st_ctim };
	for (int i = 0; i < 3; i++) {
		int64_t rest = us[i] % 1000000;
		times[i]->tv_sec = us[i] / 1000000 - (rest < 0);
		times[i]->tv_nsec = (rest < 0 ? rest + 1000000 : rest) * 1000;
	}
}

static void fill_entry(struct fuse_entry_param *entry, const struct bridge *bridge, const struct bridge_attr *attr)
{
	memset(entry, 0, sizeof *entry);
	entry->ino = attr->ino;
	entry->entry_timeout = bridge->options.entry_timeout_s;
	entry->attr_timeout = bridge->options.attr_timeout_s;
	fill_stat(&entry->attr, attr);
}

int bridge_reply_error(struct bridge_request *request, int number)
{
	ANSWER(request, fuse_reply_err(req, number));
}

int bridge_reply_entry(struct bridge_request *request, const struct bridge_attr *attr)
{
	struct fuse_entry_param entry;
	fill_entry(&entry, fuse_req_userdata(request->handle), attr);
	ANSWER(request, fuse_reply_entry(req, &entry));
}

int bridge_reply_negative(struct bridge_request *request)
{
	const struct bridge *bridge = fuse_req_userdata(request->handle);
	if (bridge->options.negative_timeout_s <= 0)
		return bridge_reply_error(request, ENOENT);
	struct fuse_entry_param entry = { .entry_timeout = bridge->options.negative_timeout_s };
	ANSWER(request, fuse_reply_entry(req, &entry));
}

int bridge_reply_attr(struct bridge_request *request, const struct bridge_attr *attr)
{
	const struct bridge *bridge = fuse_req_userdata(request->handle);
	struct stat stat;
	fill_stat(&stat, attr);
	ANSWER(request, fuse_reply_attr(req, &stat, bridge->options.attr_timeout_s));
}

int bridge_reply_create(struct bridge_request *request, const struct bridge_attr *attr, uint64_t fh, int keep_cache)
{
	struct fuse_entry_param entry;
	struct fuse_file_info file = { .fh = fh, .keep_cache = keep_cache != 0 };
	fill_entry(&entry, fuse_req_userdata(request->handle), attr);
	ANSWER(request, fuse_reply_create(req, &entry, &file));
}

int bridge_reply_open(struct bridge_request *request, uint64_t fh, int keep_cache, int direct_io)
{
	struct fuse_file_info file = { .fh = fh, .keep_cache = keep_cache != 0, .direct_io = direct_io != 0 };
	ANSWER(request, fuse_reply_open(req, &file));
}

int bridge_reply_data(struct bridge_request *request, const void *data, size_t bytes)
{
	ANSWER(request, fuse_reply_buf(req, data, bytes));
}

int bridge_reply_text(struct bridge_request *request, const char *text)
{
	ANSWER(request, fuse_reply_readlink(req, text));
}

int bridge_reply_written(struct bridge_request *request, size_t bytes)
{
	ANSWER(request, fuse_reply_write(req, bytes));
}

int bridge_reply_size(struct bridge_request *request, size_t bytes)
{
	ANSWER(request, fuse_reply_xattr(req, bytes));
}

int bridge_reply_position(struct bridge_request *request, int64_t offset)
{
	ANSWER(request, fuse_reply_lseek(req, offset));
}

int bridge_reply_space(struct bridge_request *request, uint64_t block_bytes, uint64_t blocks, uint64_t free_blocks,
		       uint64_t files, uint64_t free_files, uint32_t name_bytes_max)
{
	const struct statvfs space = {
		.f_bsize = block_bytes, .f_frsize = block_bytes, .f_blocks = blocks, .f_bfree = free_blocks,
		.f_bavail = free_blocks, .f_files = files, .f_ffree = free_files, .f_favail = free_files,
		.f_namemax = name_bytes_max,
	};
	ANSWER(request, fuse_reply_statfs(req, &space));
}

size_t bridge_add_entry(struct bridge_request *request, char *buffer, size_t room, const char *name,
			const struct bridge_attr *attr, int64_t next, int plus)
{
	size_t used;
	if (plus) {
		struct fuse_entry_param entry;
		fill_entry(&entry, fuse_req_userdata(request->handle), attr);
		if (plus == 2)
			entry.ino = 0; /* the kernel then makes no inode of it, and takes no reference */
		used = fuse_add_direntry_plus(request->handle, buffer, room, name, &entry, next);
	} else {
		struct stat stat;
		fill_stat(&stat, attr);
		used = fuse_add_direntry(request->handle, buffer, room, name, &stat, next);
	}
	return used <= room ? used : 0;
}

int bridge_invalidate_inode(struct bridge *bridge, uint64_t ino, int64_t offset, int64_t length)
{
	return -fuse_lowlevel_notify_inval_inode(bridge->session, ino, offset, length);
}

int bridge_invalidate_entry(struct bridge *bridge, uint64_t parent, const char *name, size_t name_length)
{
	return -fuse_lowlevel_notify_inval_entry(bridge->session, parent, name, name_length);
}
