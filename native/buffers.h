/* Pooled, page-aligned memory for everything that is read, sent or written in bulk.
 *
 * A buffer of up to BUFFER_POOLED_MAX bytes comes from a free list of its power-of-two class and returns there
 * when its last Python view dies; memory stays mapped, so that large transfers pay no page faults twice. */
#ifndef THREEFS_BUFFERS_H
#define THREEFS_BUFFERS_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* At least `bytes` bytes, aligned to 4096; NULL if memory is exhausted. Content is undefined. */
void *buffer_alloc(size_t bytes);
/* Returns what buffer_alloc gave; NULL is allowed. Any thread. */
void buffer_free(void *buffer);
/* Bytes that sit in free lists now. */
size_t buffer_idle_bytes(void);
/* Most bytes that may sit in free lists; what exceeds it goes back to the system. */
void buffer_set_idle_max(size_t bytes);
/* cffi:end */

#endif
