#include "io_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

bool io_job_advance(struct io_job *job, size_t bytes)
{
	job->moved += bytes;
	job->offset += bytes;
	unsigned spent = 0;
	while (spent < job->part_count && bytes >= job->parts[spent].iov_len)
		bytes -= job->parts[spent++].iov_len;
	job->part_count -= spent;
	for (unsigned i = 0; i < job->part_count; i++)
		job->parts[i] = job->parts[i + spent];
	if (job->part_count) {
		job->parts[0].iov_base = (char *)job->parts[0].iov_base + bytes;
		job->parts[0].iov_len -= bytes;
	}
	return job->part_count > 0;
}

static ssize_t transfer(struct io_job *job)
{
	if (job->kind == IO_READ)
		return preadv(job->fd, job->parts, (int)job->part_count, (off_t)job->offset);
	return pwritev(job->fd, job->parts, (int)job->part_count, (off_t)job->offset);
}

static void plain_submit(struct io_queue *queue, struct io_job *job)
{
	job->moved = 0;
	job->error = 0;
	if (job->kind == IO_SYNC) {
		job->error = fdatasync(job->fd) ? errno : 0;
		return;
	}
	while (job->part_count) {
		ssize_t moved = transfer(job);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			job->error = errno;
		if (moved == 0 && job->kind == IO_WRITE)
			job->error = EIO;
		if (moved <= 0 || !io_job_advance(job, (size_t)moved))
			return;
	}
}

static struct io_queue *plain_open(unsigned depth)
{
	return malloc(1); /* nothing to remember, but NULL means failure */
}

static void plain_close(struct io_queue *queue)
{
	free(queue);
}

static void plain_wait(struct io_queue *queue)
{
}

static int plain_sync_data(int fd)
{
	return fdatasync(fd) ? errno : 0;
}

static int plain_sync_folder(int fd)
{
	return fsync(fd) ? errno : 0;
}

static int plain_allocate(int fd, uint64_t offset, uint64_t bytes)
{
	int status;
	do
		status = fallocate(fd, 0, (off_t)offset, (off_t)bytes) ? errno : 0;
	while (status == EINTR);
	if (status == EOPNOTSUPP) /* a file system without extents: a sparse file serves, but may run full later */
		status = ftruncate(fd, (off_t)(offset + bytes)) ? errno : 0;
	return status;
}

static int plain_release(int fd, uint64_t offset, uint64_t bytes)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	return fallocate(fd, mode, (off_t)offset, (off_t)bytes) ? errno : 0;
}

const struct io_table io_plain = {
	.name = "plain",
	.queue_open = plain_open,
	.queue_close = plain_close,
	.submit = plain_submit,
	.wait = plain_wait,
	.sync_data = plain_sync_data,
	.sync_folder = plain_sync_folder,
	.allocate = plain_allocate,
	.release = plain_release,
};

const struct io_table *io_table_best(void)
{
	struct io_queue *probe = io_ring.queue_open(1);
	if (!probe)
		return &io_plain;
	io_ring.queue_close(probe);
	return &io_ring;
}
