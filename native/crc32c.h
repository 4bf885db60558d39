/* CRC32C (Castagnoli), the checksum of every unit on disk and of every frame.
 *
 * `crc` arguments and results are finished values: 0 for no bytes, and crc32c(crc32c(0, a), b) is that of a || b. */
#ifndef THREEFS_CRC32C_H
#define THREEFS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* Extends `crc` by `bytes` bytes; three interleaved SSE4.2 streams, about 29 GB/s in cache. */
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);
/* The definition, one bit at a time: the reference that the fast form is compared with. */
uint32_t crc32c_reference(uint32_t crc, const void *data, size_t bytes);
/* CRC of a || b, given both CRCs and the length of b. */
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, size_t bytes_b);
/* Extends `crc` by `bytes` zero bytes without touching any. */
uint32_t crc32c_zeros(uint32_t crc, size_t bytes);
/* Sets the CRCs of the units of `unit_bytes` that [start, start + bytes) covers, and returns the CRC of the data.
 * A unit that begins before `start` is extended: crcs[start / unit_bytes] must hold the CRC of its earlier bytes. */
uint32_t crc32c_units(uint32_t *crcs, size_t unit_bytes, size_t start, const void *data, size_t bytes);
/* CRC of `bytes` bytes of which the CRCs of their units are given. */
uint32_t crc32c_fold(const uint32_t *crcs, size_t unit_bytes, size_t bytes);
/* cffi:end */

#endif
