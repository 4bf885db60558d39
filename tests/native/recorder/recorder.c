/* Records what a process writes and syncs below one folder, for power-loss tests.
 *
 * Loaded with LD_PRELOAD. RECORDER_ROOT names the folder, RECORDER_LOG the file that the events go to. Every call
 * is carried out and logged under one lock, so that the log's order is the order of the effects: what stands before
 * a sync in the log had ended when the sync began. RECORDER_FAIL="fdatasync:3:5" lets the third fdatasync fail with
 * errno 5 (also: fsync, write, fallocate, ftruncate).
 *
 * The log is a sequence of `struct event`, each followed by its payload: the bytes of a write, the path (relative to
 * the root) of an open, mkdir, unlink or rename (old, zero byte, new), the text of a mark. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OP_OPEN = 1, OP_WRITE, OP_SYNC, OP_RESIZE, OP_ALLOCATE, OP_PUNCH, OP_UNLINK, OP_RENAME, OP_MKDIR, OP_MARK };
enum { FLAG_CREATED = 1, FLAG_DURABLE = 2, FLAG_FOLDER = 4 }; /* FLAG_DURABLE: an O_SYNC or O_DSYNC write */

struct event {
	uint32_t op, file, flags, payload_bytes;
	uint64_t offset, length;
};

enum { FDS_MAX = 4096, PATHS_MAX = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_bytes;
static uint32_t file_of_fd[FDS_MAX]; /* 0: not below the root */
static uint8_t durable_fd[FDS_MAX];
static char *paths[PATHS_MAX]; /* of file number i + 1 */
static uint32_t path_count;
static char fail_call[32];
static long fail_at, fail_errno;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void)
{
	const char *where = getenv("RECORDER_ROOT"), *log = getenv("RECORDER_LOG"), *fail = getenv("RECORDER_FAIL");
	if (!where || !log || !realpath(where, root))
		return;
	root_bytes = strlen(root);
	log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fail)
		sscanf(fail, "%31[a-z]:%ld:%ld", fail_call, &fail_at, &fail_errno);
}

static void put(const void *data, size_t bytes)
{
	const char *at = data;
	while (bytes) {
		long done = syscall(SYS_write, log_fd, at, bytes);
		if (done <= 0)
			abort();
		at += done;
		bytes -= (size_t)done;
	}
}

static void record(enum op op, uint32_t file, uint32_t flags, uint64_t offset, uint64_t length, const void *payload,
		   size_t payload_bytes)
{
	struct event event = {op, file, flags, (uint32_t)payload_bytes, offset, length};
	put(&event, sizeof event);
	put(payload, payload_bytes);
}

/* Relative path, or NULL if it is not below the root (the root itself is ""). */
static const char *below_root(int folder, const char *path, char *space)
{
	char joined[PATH_MAX * 2], parent[PATH_MAX];
	if (log_fd < 0)
		return NULL;
	if (path[0] == '/' || folder == AT_FDCWD) {
		snprintf(joined, sizeof joined, "%s", path);
	} else {
		char link[64];
		snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
		ssize_t got = readlink(link, parent, sizeof parent - 1);
		if (got < 0)
			return NULL;
		parent[got] = 0;
		snprintf(joined, sizeof joined, "%s/%s", parent, path);
	}
	if (!realpath(joined, space)) { /* does not exist yet: resolve its folder */
		char *slash = strrchr(joined, '/');
		const char *name = slash ? slash + 1 : joined;
		if (slash)
			*slash = 0;
		if (!realpath(slash ? (*joined ? joined : "/") : ".", parent))
			return NULL;
		snprintf(space, PATH_MAX * 2, "%s/%s", parent, name);
	}
	if (strncmp(space, root, root_bytes) || (space[root_bytes] && space[root_bytes] != '/'))
		return NULL;
	return space[root_bytes] ? space + root_bytes + 1 : "";
}

static uint32_t number_of(const char *path)
{
	for (uint32_t i = 0; i < path_count; i++)
		if (!strcmp(paths[i], path))
			return i + 1;
	if (path_count == PATHS_MAX)
		abort();
	paths[path_count++] = strdup(path);
	return path_count;
}

/* The call must fail now: errno is set. With the lock. */
static int must_fail(const char *call)
{
	if (!fail_at || strcmp(call, fail_call) || --fail_at)
		return 0;
	errno = (int)fail_errno;
	return 1;
}

static int opened(int folder, const char *path, int flags, mode_t mode)
{
	char space[PATH_MAX * 2];
	const char *name = below_root(folder, path, space);
	if (!name)
		return (int)syscall(SYS_openat, folder, path, flags, mode);
	pthread_mutex_lock(&lock);
	struct stat before;
	int existed = fstatat(folder, path, &before, 0) == 0;
	int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
	int error = errno;
	if (fd >= 0 && fd < FDS_MAX) {
		struct stat now;
		fstat(fd, &now);
		file_of_fd[fd] = number_of(name);
		durable_fd[fd] = (flags & (O_SYNC | O_DSYNC)) != 0;
		uint32_t what = (existed ? 0 : FLAG_CREATED) | (S_ISDIR(now.st_mode) ? FLAG_FOLDER : 0);
		record(OP_OPEN, file_of_fd[fd], what, 0, 0, name, strlen(name));
		if (existed && (flags & O_TRUNC) && before.st_size)
			record(OP_RESIZE, file_of_fd[fd], 0, 0, 0, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	errno = error;
	return fd;
}

#define OPEN(name)                                                                                                     \
	int name(const char *path, int flags, ...)                                                                     \
	{                                                                                                              \
		va_list rest;                                                                                          \
		va_start(rest, flags);                                                                                 \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                \
		va_end(rest);                                                                                          \
		return opened(AT_FDCWD, path, flags, mode);                                                            \
	}
#define OPENAT(name)                                                                                                   \
	int name(int folder, const char *path, int flags, ...)                                                         \
	{                                                                                                              \
		va_list rest;                                                                                          \
		va_start(rest, flags);                                                                                 \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                \
		va_end(rest);                                                                                          \
		return opened(folder, path, flags, mode);                                                              \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int fd)
{
	if (fd == log_fd)
		return 0;
	if (fd >= 0 && fd < FDS_MAX)
		file_of_fd[fd] = 0;
	return NEXT(close)(fd);
}

static uint32_t watched(int fd)
{
	return log_fd >= 0 && fd >= 0 && fd < FDS_MAX ? file_of_fd[fd] : 0;
}

/* Logs a write that moved `moved` bytes. */
static void wrote(int fd, uint32_t file, const struct iovec *parts, int count, uint64_t offset, ssize_t moved)
{
	if (moved <= 0)
		return;
	char *joined = malloc((size_t)moved);
	size_t filled = 0;
	for (int i = 0; i < count && filled < (size_t)moved; i++) {
		size_t share = parts[i].iov_len < (size_t)moved - filled ? parts[i].iov_len : (size_t)moved - filled;
		memcpy(joined + filled, parts[i].iov_base, share);
		filled += share;
	}
	record(OP_WRITE, file, durable_fd[fd] ? FLAG_DURABLE : 0, offset, (uint64_t)moved, joined, filled);
	free(joined);
}

static ssize_t positioned(int fd, const struct iovec *parts, int count, off_t offset)
{
	uint32_t file = watched(fd);
	if (!file)
		return syscall(SYS_pwritev, fd, parts, count, offset, 0);
	pthread_mutex_lock(&lock);
	ssize_t moved = must_fail("write") ? -1 : syscall(SYS_pwritev, fd, parts, count, offset, 0);
	int error = errno;
	wrote(fd, file, parts, count, (uint64_t)offset, moved);
	pthread_mutex_unlock(&lock);
	errno = error;
	return moved;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
	return positioned(fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
	return positioned(fd, parts, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
	struct iovec part = {(void *)data, bytes};
	return positioned(fd, &part, 1, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset)
{
	struct iovec part = {(void *)data, bytes};
	return positioned(fd, &part, 1, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	uint32_t file = watched(fd);
	if (!file)
		return syscall(SYS_writev, fd, parts, count);
	pthread_mutex_lock(&lock);
	ssize_t moved = must_fail("write") ? -1 : syscall(SYS_writev, fd, parts, count);
	int error = errno;
	off_t end = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
	wrote(fd, file, parts, count, (uint64_t)(end - (moved > 0 ? moved : 0)), moved);
	pthread_mutex_unlock(&lock);
	errno = error;
	return moved;
}

ssize_t write(int fd, const void *data, size_t bytes)
{
	struct iovec part = {(void *)data, bytes};
	if (!watched(fd))
		return syscall(SYS_write, fd, data, bytes);
	return writev(fd, &part, 1);
}

/* Carries out a call of one event without payload. */
#define LOGGED(fd, call, name, op, offset, length)                                                                     \
	uint32_t file = watched(fd);                                                                                   \
	if (!file)                                                                                                     \
		return (int)(call);                                                                                    \
	pthread_mutex_lock(&lock);                                                                                     \
	int status = must_fail(name) ? -1 : (int)(call);                                                               \
	int error = errno;                                                                                             \
	if (!status)                                                                                                   \
		record(op, file, 0, (uint64_t)(offset), (uint64_t)(length), NULL, 0);                                  \
	pthread_mutex_unlock(&lock);                                                                                   \
	errno = error;                                                                                                 \
	return status

int fdatasync(int fd)
{
	LOGGED(fd, syscall(SYS_fdatasync, fd), "fdatasync", OP_SYNC, 0, 0);
}

int fsync(int fd)
{
	LOGGED(fd, syscall(SYS_fsync, fd), "fsync", OP_SYNC, 0, 0);
}

int ftruncate(int fd, off_t length)
{
	LOGGED(fd, syscall(SYS_ftruncate, fd, length), "ftruncate", OP_RESIZE, 0, length);
}

int ftruncate64(int fd, off64_t length)
{
	LOGGED(fd, syscall(SYS_ftruncate, fd, length), "ftruncate", OP_RESIZE, 0, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	LOGGED(fd, syscall(SYS_fallocate, fd, mode, offset, length), "fallocate",
	       mode & FALLOC_FL_PUNCH_HOLE ? OP_PUNCH : OP_ALLOCATE, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	LOGGED(fd, syscall(SYS_fallocate, fd, mode, offset, length), "fallocate",
	       mode & FALLOC_FL_PUNCH_HOLE ? OP_PUNCH : OP_ALLOCATE, offset, length);
}

static int unlinked(int folder, const char *path, int flags)
{
	char space[PATH_MAX * 2];
	const char *name = below_root(folder, path, space);
	if (!name)
		return (int)syscall(SYS_unlinkat, folder, path, flags);
	pthread_mutex_lock(&lock);
	int status = (int)syscall(SYS_unlinkat, folder, path, flags);
	if (!status)
		record(OP_UNLINK, number_of(name), 0, 0, 0, name, strlen(name));
	pthread_mutex_unlock(&lock);
	return status;
}

int unlink(const char *path)
{
	return unlinked(AT_FDCWD, path, 0);
}

int unlinkat(int folder, const char *path, int flags)
{
	return unlinked(folder, path, flags);
}

int rename(const char *from, const char *to)
{
	char space[PATH_MAX * 2], space_to[PATH_MAX * 2], both[PATH_MAX * 2];
	const char *old = below_root(AT_FDCWD, from, space), *new = below_root(AT_FDCWD, to, space_to);
	if (!old || !new)
		return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
	pthread_mutex_lock(&lock);
	int status = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
	int bytes = snprintf(both, sizeof both, "%s%c%s", old, 0, new);
	if (!status)
		record(OP_RENAME, number_of(old), 0, 0, 0, both, (size_t)bytes);
	pthread_mutex_unlock(&lock);
	return status;
}

int mkdir(const char *path, mode_t mode)
{
	char space[PATH_MAX * 2];
	const char *name = below_root(AT_FDCWD, path, space);
	if (!name)
		return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
	pthread_mutex_lock(&lock);
	int status = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
	if (!status)
		record(OP_MKDIR, number_of(name), FLAG_FOLDER, 0, 0, name, strlen(name));
	pthread_mutex_unlock(&lock);
	return status;
}

/* A store below the root that writes through a shared mapping would escape the recorder: refuse it. LMDB maps its
 * lock file so, which holds nothing that must survive. */
void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	uint32_t file = watched(fd);
	if (file && (flags & MAP_SHARED) && (protection & PROT_WRITE) && !strstr(paths[file - 1], "lock")) {
		errno = ENOTSUP;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

/* For the workload: puts a line of its own into the log. */
void recorder_mark(const char *text)
{
	if (log_fd < 0)
		return;
	pthread_mutex_lock(&lock);
	record(OP_MARK, 0, 0, 0, 0, text, strlen(text));
	pthread_mutex_unlock(&lock);
}
