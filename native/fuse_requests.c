#include "fuse_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuse_answers.h"

enum { PAYLOAD_COPY_MAX = 64 << 10 }; /* below this a copy is cheaper than giving a whole receive buffer away */

static void on_interrupt(fuse_req_t req, void *data)
{
	struct bridge_request *target = data;
	struct bridge *bridge = fuse_req_userdata(req);
	struct bridge_request *notice = calloc(1, sizeof *notice);
	if (!notice)
		return; /* the request simply is not interrupted */
	notice->id = target->id;
	notice->op = BRIDGE_INTERRUPT;
	bridge_enqueue_notice(bridge, notice, target);
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
		request->name = bridge_copy(name, request->name_length);
	}
	if (name_out) {
		request->name_out_length = strlen(name_out);
		request->name_out = bridge_copy(name_out, request->name_out_length);
	}
	if ((name && !request->name) || (name_out && !request->name_out)) {
		bridge_reply_error(request, ENOMEM);
		return NULL;
	}
	return request;
}

/* The callback is set before the request can be answered by another thread. */
static void submit(struct bridge_request *request)
{
	fuse_req_interrupt_func(request->handle, on_interrupt, request);
	bridge_enqueue(fuse_req_userdata(request->handle), request);
}

/* What the kernel asks, in the order of bridge_op. */

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (bridge_lookup(req, parent, name))
		return;
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
	submit(request);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *file)
{
	struct bridge_request *request = begin(req, BRIDGE_WRITE, ino, NULL, NULL);
	if (!request)
		return;
	bridge_note_changed(fuse_req_userdata(req), ino);
	request->fh = file->fh;
	request->size = size;
	request->offset = offset;
	request->flags = (uint32_t)file->flags;
	request->data_length = size;
	if (size >= PAYLOAD_COPY_MAX) {
		request->data = (void *)(uintptr_t)data;
		request->receive_buffer = bridge_receiving;
		bridge_receiving = NULL;
	} else if (!(request->data = bridge_copy(data, size))) {
		bridge_reply_error(request, ENOMEM);
		return;
	}
	submit(request);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	if (!bridge_is_changed(fuse_req_userdata(req), ino)) {
		fuse_reply_err(req, 0);
		return;
	}
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
	if (!(request->data = bridge_copy(value, size))) {
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
	bridge_note_changed(fuse_req_userdata(req), ino);
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
	bridge_note_changed(fuse_req_userdata(req), ino_out);
	request->fh = file->fh;
	request->offset = offset;
	request->ino_out = ino_out;
	request->fh_out = file_out->fh;
	request->offset_out = offset_out;
	request->size = size;
	request->flags = (uint32_t)flags;
	submit(request);
}

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

const struct fuse_lowlevel_ops bridge_operations = {
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
