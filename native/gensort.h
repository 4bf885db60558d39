/* Sort-benchmark records: the published generator and the checks of a sorted file.
 *
 * A record has 100 bytes, its first 10 are the key. Record r comes from the 128-bit sequence
 * X(0) = 0, X(i+1) = a X(i) + c mod 2^128; its key is made of X(r+1). */
#ifndef THREEFS_GENSORT_H
#define THREEFS_GENSORT_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
typedef struct {
	uint64_t checksum_high;   /* sum of the zlib CRC-32 of every record, 128 bits */
	uint64_t checksum_low;
	uint64_t records;
	uint64_t unordered;       /* records whose key is below that of the record before */
	uint64_t first_unordered; /* index of the first of them in this piece; UINT64_MAX if none */
	uint64_t duplicates;      /* records whose key equals that of the record before */
} gensort_summary;

/* Writes records first .. first + count - 1 to `out`. */
void gensort_generate(uint8_t *out, uint64_t first, uint64_t count, int ascii, int skewed);
/* Adds `count` records to `summary`, which the caller has zeroed (first_unordered = UINT64_MAX). Within the piece
 * only: the caller compares the border with the piece before. */
void gensort_check(const uint8_t *records, uint64_t count, gensort_summary *summary);
/* cffi:end */

#endif
