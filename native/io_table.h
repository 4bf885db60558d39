/* Every system call that writes, syncs or allocates in block files goes through one `struct io_table`.
 *
 * Two tables exist: `io_ring` (io_uring) and `io_plain` (pwritev and friends, for kernels and sandboxes that refuse
 * io_uring). A process's calls through `io_plain` can be watched, failed and replayed from outside, because they
 * are plain libc calls; the power-loss tests do that. */
#ifndef THREEFS_IO_TABLE_H
#define THREEFS_IO_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum io_kind { IO_READ, IO_WRITE, IO_SYNC };
enum { IO_PARTS_MAX = 3 };

/* One transfer. The caller fills everything above the line and keeps it until `wait` returns. */
struct io_job {
	enum io_kind kind;
	int fd;
	uint64_t offset;
	unsigned part_count;
	struct iovec parts[IO_PARTS_MAX]; /* consumed as bytes move */
	/* ---- */
	size_t moved; /* bytes; a read may be short at the end of the file */
	int error;    /* 0 or an errno value */
	struct io_job *next;
};

struct io_queue; /* of one thread */

struct io_table {
	const char *name;
	struct io_queue *(*queue_open)(unsigned depth); /* NULL: errno says why */
	void (*queue_close)(struct io_queue *queue);
	void (*submit)(struct io_queue *queue, struct io_job *job);
	void (*wait)(struct io_queue *queue); /* until every submitted job has ended */
	int (*sync_data)(int fd);             /* these return 0 or an errno value */
	int (*sync_folder)(int fd);
	int (*allocate)(int fd, uint64_t offset, uint64_t bytes);
	int (*release)(int fd, uint64_t offset, uint64_t bytes); /* back to the file system; reads as zeros */
};

extern const struct io_table io_plain;
extern const struct io_table io_ring;

/* Moves a job's parts on after `bytes` were transferred; true if something is left. */
bool io_job_advance(struct io_job *job, size_t bytes);
/* `io_ring` if the kernel lets us use it, else `io_plain`. */
const struct io_table *io_table_best(void);

#endif
