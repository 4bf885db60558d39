/* Sorting and partitioning of 100-byte records by their 10-byte keys. Stable: equal keys keep their order. */
#ifndef THREEFS_RECORD_SORT_H
#define THREEFS_RECORD_SORT_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* Writes the records of all pieces to `out` in key order; equal keys keep the order of the pieces and within them.
 * Piece p has counts[p] records at pieces[p]. `out` overlaps no piece; `scratch` is 8-aligned and has 32 bytes a
 * record. Addresses must fit into 48 bits, as those of user space do on x86-64 and arm64. */
void record_sort(uint8_t *out, const uint8_t *const *pieces, const uint64_t *counts, size_t pieces_count, void *scratch);
/* Groups the records of `in` by partition into `out`, keeping their order: record r belongs to the partition p with
 * splitters[p - 1] <= key < splitters[p], splitters being `partitions` - 1 sorted keys of 10 bytes. counts[p] becomes
 * the number of records of partition p. Takes 4 bytes of scratch memory a record. Returns 0, or -1 without memory. */
int record_partition(uint8_t *out, const uint8_t *in, size_t count, const uint8_t *splitters, size_t partitions,
                     uint64_t *counts);
/* cffi:end */

#endif
