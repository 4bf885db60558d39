/* What the kernel asks of a mount: one `struct bridge_request` for each request.
 *
 * `fuse_requests.c` fills them in and queues them (see fuse_bridge.h); `fuse_answers.h` answers and frees them. FORGET,
 * and attribute classes that the file system has none of, are answered there and never become one. */
#ifndef THREEFS_FUSE_REQUESTS_H
#define THREEFS_FUSE_REQUESTS_H

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
	struct bridge_request *early; /* the BRIDGE_INTERRUPT for it, if the signal came before it was queued */
	int queued;
};

/* Frees a payload that was taken over: the request's `data` and `receive_buffer`, whose fields the taker has set to
 * NULL. Any thread, at any time. */
void bridge_free_payload(void *data, void *receive_buffer);

/* Frees a BRIDGE_INTERRUPT. */
void bridge_free_notice(struct bridge_request *notice);
/* cffi:end */

#endif
