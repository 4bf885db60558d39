/* Partitioning of columns: hash of each row, rows a partition, and the move of every value to its partition's place.
 *
 * A round is many batches. Each batch's rows have an owner (a partition) and a place (an index into the round, whose
 * rows are ordered by partition, then batch, then row). Batches may be worked on at the same time: they write to
 * disjoint places. The hash is defined in smallpond/shuffle/hashing.py, the reference of this file. */
#ifndef THREEFS_SHUFFLE_H
#define THREEFS_SHUFFLE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* hashes[i] = mix((hashes[i] ^ value of row i) + step). `valid` is a bitmap whose first bit is bit `valid_offset`, or
 * NULL: no nulls. Numbers are 64 bits wide; `floats` says that they are float64. */
void shuffle_hash_numbers(uint64_t *hashes, const uint64_t *numbers, int floats, const uint8_t *valid,
                          size_t valid_offset, size_t count);
/* The same for strings: string i is bytes[offsets[i]] .. bytes[offsets[i + 1] - 1]; offsets have `offset_bytes` (4 or
 * 8) each. */
void shuffle_hash_strings(uint64_t *hashes, const void *offsets, size_t offset_bytes, const uint8_t *bytes,
                          const uint8_t *valid, size_t valid_offset, size_t count);
/* owners[i] = the partition of hashes[i]. */
void shuffle_owners(uint32_t *owners, const uint64_t *hashes, size_t count, uint32_t partitions);
/* counts[p] += rows that p owns. Returns 0, or -1 if an owner is not below `partitions`: counts are then of no use. */
int shuffle_count(uint64_t *counts, const uint32_t *owners, size_t count, uint32_t partitions);
/* sizes[p] += bytes of the strings that p owns. */
void shuffle_string_sizes(uint64_t *sizes, const uint32_t *owners, const void *offsets, size_t offset_bytes,
                          size_t count);
/* places[i] = next[owners[i]]++. */
void shuffle_places(uint32_t *places, uint64_t *next, const uint32_t *owners, size_t count);
/* out[places[i]] = in[i], `width` bytes each. */
void shuffle_scatter(uint8_t *out, const uint8_t *in, size_t width, const uint32_t *places, size_t count);
/* out[places[i]] = bit i of `bits` (from bit `bit_offset` on), a byte each. */
void shuffle_scatter_bits(uint8_t *out, const uint8_t *bits, size_t bit_offset, const uint32_t *places, size_t count);
/* Copies string i to out_bytes[bases[p] + next[p]], and next[p] to out_offsets[places[i] + p], p being its owner; adds
 * its length to next[p]. Each partition has one more offset than rows; the last ones are the caller's. */
void shuffle_scatter_strings(void *out_offsets, uint8_t *out_bytes, const void *offsets, size_t offset_bytes,
                             const uint8_t *bytes, const uint32_t *owners, const uint32_t *places,
                             const uint64_t *bases, uint64_t *next, size_t count);
/* cffi:end */

#endif
