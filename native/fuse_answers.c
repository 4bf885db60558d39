#include "fuse_answers.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "fuse_internal.h"

/* Sends the answer, then frees the request. The handle dies with the answer; its interrupt callback is taken away
 * before, so that it never finds a freed request. */
#define ANSWER(request, call)                              \
	do {                                               \
		fuse_req_t req = (request)->handle;        \
		fuse_req_interrupt_func(req, NULL, NULL);  \
		int result = -(call);                      \
		bridge_release_request(request);                  \
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

void bridge_fill_entry(struct fuse_entry_param *entry, const struct bridge *bridge, const struct bridge_attr *attr)
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
	bridge_fill_entry(&entry, fuse_req_userdata(request->handle), attr);
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

int bridge_reply_attr(struct bridge_request *request, const struct bridge_attr *attr, double valid_s)
{
	const struct bridge *bridge = fuse_req_userdata(request->handle);
	struct stat stat;
	fill_stat(&stat, attr);
	ANSWER(request, fuse_reply_attr(req, &stat, valid_s < 0 ? bridge->options.attr_timeout_s : valid_s));
}

int bridge_reply_create(struct bridge_request *request, const struct bridge_attr *attr, uint64_t fh, int keep_cache)
{
	struct fuse_entry_param entry;
	struct fuse_file_info file = { .fh = fh, .keep_cache = keep_cache != 0 };
	bridge_fill_entry(&entry, fuse_req_userdata(request->handle), attr);
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
		bridge_fill_entry(&entry, fuse_req_userdata(request->handle), attr);
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
