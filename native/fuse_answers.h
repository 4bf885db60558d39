/* Answers to requests: each function answers one request exactly once, then frees it with all that it points to. */
#ifndef THREEFS_FUSE_ANSWERS_H
#define THREEFS_FUSE_ANSWERS_H

#include "fuse_requests.h"

/* cffi:begin */
/* Each returns 0, or an errno if the kernel no longer wanted the answer (ENOENT: interrupted; a file or directory
 * that was being opened must then be closed by the caller, for no release will come). */
int bridge_reply_error(struct bridge_request *request, int number);
int bridge_reply_entry(struct bridge_request *request, const struct bridge_attr *attr);
int bridge_reply_negative(struct bridge_request *request); /* lookup: no such name, remember that */
/* `valid_s` below 0: as long as the options say. */
int bridge_reply_attr(struct bridge_request *request, const struct bridge_attr *attr, double valid_s);
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
/* cffi:end */

#endif
