/* What a reader does with the reply to a batch of reads, descriptor by descriptor. */
#ifndef THREEFS_READ_REPLY_H
#define THREEFS_READ_REPLY_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* 1 if each of `count` reads was answered in full and `data` is what was sent: every reply without status, message and
 * reserved bits, as long as asked for, with the CRC32C of its bytes, and together exactly `data_bytes`. 0 if anything
 * is different: then somebody has to look closer. `requests` and `replies` as proto/data_plane.py lays them out. */
int read_reply_is_plain(const void *requests, const void *replies, uint32_t count, const uint8_t *data,
			size_t data_bytes);
/* cffi:end */

#endif
