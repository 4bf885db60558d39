/* From /dev/fuse to Python and back.
 *
 * C threads read requests from the kernel and queue them as `struct bridge_request`; Python is woken through an
 * eventfd, takes a batch and answers each request exactly once with one of the bridge_reply_* functions, which
 * send the answer and free the request with everything that it points to. The payload of a large write stays in
 * the buffer that the kernel filled. FORGET, and attribute classes that the file system has none of, are answered
 * here. Nothing here decides anything about files. */
#ifndef THREEFS_FUSE_BRIDGE_H
#define THREEFS_FUSE_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
enum bridge_op {
	BRIDGE_LOOKUP = 1, BRIDGE_GETATTR = 2, BRIDGE_SETATTR = 3, BRIDGE_READLINK = 4, BRIDGE_MKNOD = 5,
	BRIDGE_MKDIR = 6, BRIDGE_UNLINK = 7, BRIDGE_RMDIR = 8, BRIDGE_SYMLINK = 9, BRIDGE_RENAME = 10,
	BRIDGE_LINK = 11, BRIDGE_OPEN = 12, BRIDGE_READ = 13, BRIDGE_WRITE = 14, BRIDGE_FLUSH = 15,
	BRIDGE_RELEASE = 16, BRIDGE_FSYNC = 17, BRIDGE_OPENDIR = 18, BRIDGE_READDIR = 19, BRIDGE_READDIRPLUS = 20,
	BRIDGE_RELEASEDIR = 21, BRIDGE_FSYNCDIR = 22, BRIDGE_STATFS = 23, BRIDGE_SETXATTR = 24,
	BRIDGE_GETXATTR = 25, BRIDGE_LISTXATTR = 26, BRIDGE_REMOVEXATTR = 27, BRIDGE_CREATE = 28,
	BRIDGE_FALLOCATE = 29, BRIDGE_LSEEK = 30, BRIDGE_COPY_FILE_RANGE = 31,
	BRIDGE_INTERRUPT = 32, /* needs no reply: `id` of the request that a signal wants to end */
};

/* What setattr wants changed. */
enum bridge_valid {
	BRIDGE_SET_MODE = 1, BRIDGE_SET_UID = 2, BRIDGE_SET_GID = 4, BRIDGE_SET_SIZE = 8, BRIDGE_SET_ATIME = 16,
	BRIDGE_SET_MTIME = 32, BRIDGE_SET_ATIME_NOW = 64, BRIDGE_SET_MTIME_NOW = 128, BRIDGE_SET_HANDLE = 256,
};

struct bridge_attr {
	uint64_t ino;
	uint64_t size;
	uint64_t blocks; /* of 512 bytes */
	uint64_t rdev;
	int64_t atime_us, mtime_us, ctime_us;
	uint32_t mode, nlink, uid, gid;
};

/* Fields that an operation does not have are zero. */
struct bridge_request {
	uint64_t id;             /* never used twice */
	uint32_t op;
	uint32_t uid, gid;
	uint32_t pid;            /* 0 if the caller is in a foreign namespace */
	uint64_t ino;            /* the file, or the parent of `name` */
	uint64_t ino_out;        /* rename, link: new parent; copy_file_range: destination */
	uint64_t fh, fh_out;
	int64_t offset, offset_out;
	uint64_t size;           /* bytes wanted, or the length of a range */
	uint32_t flags;          /* open, rename, setxattr, fallocate mode, lseek whence, fsync: 1 = data only */
	uint32_t valid;          /* setattr: bridge_valid */
	struct bridge_attr attr; /* setattr; mode and rdev of mknod, mkdir, create */
	const char *name, *name_out;       /* zero-terminated; symlink: target in name_out */
	size_t name_length, name_out_length;
	void *data;              /* write: payload; setxattr: value */
	size_t data_length;
	void *receive_buffer; /* if set, `data` lies in it */
	/* Private to the bridge from here on. */
	void *handle;
	struct bridge_request *next;
};

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

/* Frees a payload that was taken over: the request's `data` and `receive_buffer`, whose fields the taker has set to
 * NULL. Any thread, at any time. */
void bridge_free_payload(void *data, void *receive_buffer);

/* Frees a BRIDGE_INTERRUPT. */
void bridge_free_notice(struct bridge_request *notice);

/* Each returns 0, or an errno if the kernel no longer wanted the answer (ENOENT: interrupted; a file or directory
 * that was being opened must then be closed by the caller, for no release will come). */
int bridge_reply_error(struct bridge_request *request, int number);
int bridge_reply_entry(struct bridge_request *request, const struct bridge_attr *attr);
int bridge_reply_negative(struct bridge_request *request); /* lookup: no such name, remember that */
int bridge_reply_attr(struct bridge_request *request, const struct bridge_attr *attr);
int bridge_reply_create(struct bridge_request *request, const struct bridge_attr *attr, uint64_t fh, int keep_cache);
int bridge_reply_open(struct bridge_request *request, uint64_t fh, int keep_cache, int direct_io);
int bridge_reply_data(struct bridge_request *request, const void *data, size_t bytes);
int bridge_reply_text(struct bridge_request *request, const char *text);
int bridge_reply_written(struct bridge_request *request, size_t bytes);
int bridge_reply_size(struct bridge_request *request, size_t bytes); /* xattr size queries */
int bridge_reply_position(struct bridge_request *request, int64_t offset);
int bridge_reply_space(struct bridge_request *request, uint64_t block_bytes, uint64_t blocks, uint64_t free_blocks,
		       uint64_t files, uint64_t free_files, uint32_t name_bytes_max);

/* Appends a directory entry to `buffer` of `room` bytes; the bytes used, or 0 if it does not fit. `plus` is 0 for readdir; else
 * it is for readdirplus: 1 with attributes, 2 for an entry whose attributes are not known.
 * `next` is the offset at which reading goes on. */
size_t bridge_add_entry(struct bridge_request *request, char *buffer, size_t room, const char *name,
			const struct bridge_attr *attr, int64_t next, int plus);

/* Kernel caches: attributes and pages (offset < 0: attributes only), and a name. Neither may be called while a
 * request that touches the same object waits for an answer, except attributes only, which takes no lock. */
int bridge_invalidate_inode(struct bridge *bridge, uint64_t ino, int64_t offset, int64_t length);
int bridge_invalidate_entry(struct bridge *bridge, uint64_t parent, const char *name, size_t name_length);
/* cffi:end */

#endif
