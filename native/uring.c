/* The io_uring form of `struct io_table`. A queue belongs to one thread. */
#include "io_table.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

enum { EAGER_BYTES = 128 << 10 }; /* prepared bytes from which the kernel is told at once, so that the disk starts */

struct io_queue {
	struct io_uring ring;
	unsigned depth;
	unsigned in_flight; /* prepared or submitted, not ended */
	size_t unsubmitted_bytes;
};

static struct io_queue *ring_open(unsigned depth)
{
	struct io_queue *queue = calloc(1, sizeof *queue);
	if (!queue)
		return NULL;
	queue->depth = depth;
	int status = io_uring_queue_init(depth, &queue->ring, 0);
	if (status < 0) {
		free(queue);
		errno = -status;
		return NULL;
	}
	return queue;
}

static void ring_close(struct io_queue *queue)
{
	io_uring_queue_exit(&queue->ring);
	free(queue);
}

static void prepare(struct io_queue *queue, struct io_job *job)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
	if (!sqe) { /* full of unsubmitted ones */
		io_uring_submit(&queue->ring);
		queue->unsubmitted_bytes = 0;
		sqe = io_uring_get_sqe(&queue->ring);
	}
	if (job->kind == IO_SYNC)
		io_uring_prep_fsync(sqe, job->fd, IORING_FSYNC_DATASYNC);
	else if (job->kind == IO_READ)
		io_uring_prep_readv(sqe, job->fd, job->parts, job->part_count, job->offset);
	else
		io_uring_prep_writev(sqe, job->fd, job->parts, job->part_count, job->offset);
	io_uring_sqe_set_data(sqe, job);
	queue->in_flight++;
}

/* Ends a job or sends what is left of it again. */
static void finish(struct io_queue *queue, struct io_job *job, int result)
{
	queue->in_flight--;
	if (result == -EINTR || result == -EAGAIN) {
		prepare(queue, job);
	} else if (result < 0) {
		job->error = -result;
	} else if (job->kind != IO_SYNC && result == 0) {
		job->error = job->kind == IO_WRITE ? EIO : 0;
	} else if (job->kind != IO_SYNC && io_job_advance(job, (size_t)result)) {
		prepare(queue, job);
	}
}

static void reap(struct io_queue *queue)
{
	struct io_uring_cqe *cqe;
	io_uring_submit_and_wait(&queue->ring, 1);
	queue->unsubmitted_bytes = 0;
	while (io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
		struct io_job *job = io_uring_cqe_get_data(cqe);
		int result = cqe->res;
		io_uring_cqe_seen(&queue->ring, cqe);
		finish(queue, job, result);
	}
}

static void ring_submit(struct io_queue *queue, struct io_job *job)
{
	job->moved = 0;
	job->error = 0;
	while (queue->in_flight >= queue->depth)
		reap(queue);
	for (unsigned i = 0; i < job->part_count; i++)
		queue->unsubmitted_bytes += job->parts[i].iov_len;
	prepare(queue, job);
	if (queue->unsubmitted_bytes >= EAGER_BYTES) {
		io_uring_submit(&queue->ring);
		queue->unsubmitted_bytes = 0;
	}
}

static void ring_wait(struct io_queue *queue)
{
	while (queue->in_flight)
		reap(queue);
}

static int plain_sync_data(int fd)
{
	return io_plain.sync_data(fd);
}

static int plain_sync_folder(int fd)
{
	return io_plain.sync_folder(fd);
}

static int plain_allocate(int fd, uint64_t offset, uint64_t bytes)
{
	return io_plain.allocate(fd, offset, bytes);
}

static int plain_release(int fd, uint64_t offset, uint64_t bytes)
{
	return io_plain.release(fd, offset, bytes);
}

const struct io_table io_ring = {
	.name = "io_uring",
	.queue_open = ring_open,
	.queue_close = ring_close,
	.submit = ring_submit,
	.wait = ring_wait,
	.sync_data = plain_sync_data,
	.sync_folder = plain_sync_folder,
	.allocate = plain_allocate,
	.release = plain_release,
};
