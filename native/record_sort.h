/* Sorting and partitioning of 100-byte records by their 10-byte keys. Stable: equal keys keep their order. */
#ifndef THREEFS_RECORD_SORT_H
#define THREEFS_RECORD_SORT_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* Writes the `count` records of `in` to `out` in key order; the buffers must not overlap. At most 2^32 - 1 records.
 * Takes 32 bytes of scratch memory a record. Returns 0, or -1 if that memory is not to be had. */
int record_sort(uint8_t *out, const uint8_t *in, size_t count);
/* Groups the records of `in` by partition into `out`, keeping their order: record r belongs to the partition p with
 * splitters[p - 1] <= key < splitters[p], splitters being `partitions` - 1 sorted keys of 10 bytes. counts[p] becomes
 * the number of records of partition p. Takes 4 bytes of scratch memory a record. Returns 0, or -1 without memory. */
int record_partition(uint8_t *out, const uint8_t *in, size_t count, const uint8_t *splitters, size_t partitions,
                     uint64_t *counts);
/* cffi:end */

#endif
