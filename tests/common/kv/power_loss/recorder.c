/* Loaded with LD_PRELOAD: writes down every write and sync of the files `data.mdb` and `marks`, in order.
 *
 * Record: u8 kind, u64 offset, u32 bytes, then the bytes. Kinds: w write, d write to a file opened with O_DSYNC
 * (durable when it returns), s sync, t change of size (nothing recorded may do that), m what was written to `marks`.
 * The log is the file that RECORDER_LOG names.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILES_MAX = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char kind_of[FILES_MAX]; /* 0 not recorded, else the kind of a write to this descriptor */
static int log_file = -1;

static void record(int fd, char kind, uint64_t offset, const void *data, uint32_t bytes) {
    uint8_t header[13];
    header[0] = (uint8_t)kind;
    memcpy(header + 1, &offset, 8);
    memcpy(header + 9, &bytes, 4);
    if (fd < 0 || fd >= FILES_MAX || !kind_of[fd])
        return;
    if (log_file < 0)
        log_file = (int)syscall(SYS_openat, AT_FDCWD, getenv("RECORDER_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    struct iovec parts[2] = {{header, sizeof header}, {(void *)(uintptr_t)data, bytes}};
    if (syscall(SYS_writev, log_file, parts, 2) != (long)(sizeof header + bytes))
        abort();
}

static int opened(int fd, const char *path, int flags) {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (fd >= 0 && fd < FILES_MAX)
        kind_of[fd] = !strcmp(name, "marks") ? 'm' : strcmp(name, "data.mdb") ? 0 : flags & O_DSYNC ? 'd' : 'w';
    return fd;
}

static int open_at(int folder, const char *path, int flags, va_list arguments) {
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, int) : 0;
    return opened((int)syscall(SYS_openat, folder, path, flags, mode), path, flags);
}

#define OPEN(name, ...)                                          \
    int name(__VA_ARGS__ const char *path, int flags, ...) {     \
        va_list arguments;                                       \
        va_start(arguments, flags);                              \
        int fd = open_at(FOLDER, path, flags, arguments);        \
        va_end(arguments);                                       \
        return fd;                                               \
    }
#define FOLDER AT_FDCWD
OPEN(open)
OPEN(open64)
#undef FOLDER
#define FOLDER folder
#define AT int folder,
OPEN(openat, AT)
OPEN(openat64, AT)

int __open_2(const char *path, int flags) {
    return opened((int)syscall(SYS_openat, AT_FDCWD, path, flags, 0), path, flags);
}
int __open64_2(const char *path, int flags) { return __open_2(path, flags); }

int close(int fd) {
    if (fd >= 0 && fd < FILES_MAX)
        kind_of[fd] = 0;
    return (int)syscall(SYS_close, fd);
}

static char write_kind(int fd) { return fd >= 0 && fd < FILES_MAX ? kind_of[fd] : 0; }

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) {
    if (!write_kind(fd))
        return syscall(SYS_pwrite64, fd, data, bytes, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_pwrite64, fd, data, bytes, offset);
    if (done > 0)
        record(fd, write_kind(fd), (uint64_t)offset, data, (uint32_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) { return pwrite64(fd, data, bytes, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!write_kind(fd))
        return syscall(SYS_writev, fd, parts, count);
    ssize_t total = 0;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    for (int i = 0; i < count; i++) {
        ssize_t done = pwrite64(fd, parts[i].iov_base, parts[i].iov_len, offset + total);
        if (done < 0)
            return total ? total : done;
        total += done;
    }
    lseek(fd, offset + total, SEEK_SET);
    return total;
}

ssize_t write(int fd, const void *data, size_t bytes) {
    struct iovec part = {(void *)(uintptr_t)data, bytes};
    return write_kind(fd) ? writev(fd, &part, 1) : syscall(SYS_write, fd, data, bytes);
}

static int synced(int fd, long call) {
    pthread_mutex_lock(&lock);
    int rc = (int)syscall(call, fd);
    if (rc == 0)
        record(fd, 's', 0, "", 0);
    pthread_mutex_unlock(&lock);
    return rc;
}
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }
int fsync(int fd) { return synced(fd, SYS_fsync); }

int ftruncate64(int fd, off64_t bytes) {
    record(fd, 't', (uint64_t)bytes, "", 0);
    return (int)syscall(SYS_ftruncate, fd, bytes);
}
int ftruncate(int fd, off_t bytes) { return ftruncate64(fd, bytes); }
