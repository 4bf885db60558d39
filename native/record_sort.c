#include "record_sort.h"

#include <stdlib.h>
#include <string.h>

enum { RECORD = 100, KEY = 10, SMALL = 40, DIGITS = 256, PREFETCH = 16 };

struct entry {
	uint64_t high; /* first 8 key bytes, as a number */
	uint16_t low;  /* last 2 */
	uint32_t index;
};

static uint64_t key_high(const uint8_t *record)
{
	uint64_t raw;
	memcpy(&raw, record, sizeof raw);
	return __builtin_bswap64(raw);
}

static uint16_t key_low(const uint8_t *record)
{
	uint16_t raw;
	memcpy(&raw, record + 8, sizeof raw);
	return __builtin_bswap16(raw);
}

static int above(const struct entry *a, const struct entry *b)
{
	return a->high != b->high ? a->high > b->high : a->low > b->low;
}

static unsigned digit(const struct entry *entry, unsigned level)
{
	return level < 8 ? (unsigned)(entry->high >> (56 - 8 * level) & 255)
	                 : (unsigned)(entry->low >> (8 * (9 - level)) & 255);
}

static void insertion_sort(struct entry *entries, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		struct entry moving = entries[i];
		size_t at = i;
		for (; at && above(&entries[at - 1], &moving); at--)
			entries[at] = entries[at - 1];
		entries[at] = moving;
	}
}

/* Radix sort from the most significant byte down; buckets of a few entries are finished by insertion. */
static void sort_from(struct entry *entries, struct entry *scratch, size_t count, unsigned level)
{
	size_t starts[DIGITS + 1] = {0}, at[DIGITS];
	if (count <= SMALL) {
		insertion_sort(entries, count);
		return;
	}
	if (level == KEY)
		return;
	for (size_t i = 0; i < count; i++)
		starts[digit(&entries[i], level) + 1]++;
	for (size_t d = 0; d < DIGITS; d++) {
		starts[d + 1] += starts[d];
		at[d] = starts[d];
	}
	if (starts[digit(entries, level) + 1] - starts[digit(entries, level)] == count) {
		sort_from(entries, scratch, count, level + 1); /* one bucket: nothing to move */
		return;
	}
	for (size_t i = 0; i < count; i++)
		scratch[at[digit(&entries[i], level)]++] = entries[i];
	memcpy(entries, scratch, count * sizeof *entries);
	for (size_t d = 0; d < DIGITS; d++)
		if (starts[d + 1] - starts[d] > 1)
			sort_from(entries + starts[d], scratch + starts[d], starts[d + 1] - starts[d], level + 1);
}

int record_sort(uint8_t *out, const uint8_t *in, size_t count)
{
	struct entry *entries = malloc((2 * count + 1) * sizeof *entries);
	if (!entries)
		return -1;
	for (size_t i = 0; i < count; i++)
		entries[i] = (struct entry){key_high(in + i * RECORD), key_low(in + i * RECORD), (uint32_t)i};
	sort_from(entries, entries + count, count, 0);
	for (size_t i = 0; i < count; i++) {
		if (i + PREFETCH < count)
			__builtin_prefetch(in + (size_t)entries[i + PREFETCH].index * RECORD);
		memcpy(out + i * RECORD, in + (size_t)entries[i].index * RECORD, RECORD);
	}
	free(entries);
	return 0;
}

/* Number of splitters that are not above the record's key. */
static uint32_t partition_of(const uint8_t *record, const uint8_t *splitters, size_t partitions)
{
	size_t low = 0, high = partitions - 1;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (memcmp(splitters + middle * KEY, record, KEY) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return (uint32_t)low;
}

int record_partition(uint8_t *out, const uint8_t *in, size_t count, const uint8_t *splitters, size_t partitions,
                     uint64_t *counts)
{
	uint32_t *owners = malloc((count + 1) * sizeof *owners);
	uint64_t *at = calloc(partitions + 1, sizeof *at);
	if (!owners || !at) {
		free(owners);
		free(at);
		return -1;
	}
	memset(counts, 0, partitions * sizeof *counts);
	for (size_t i = 0; i < count; i++) {
		owners[i] = partition_of(in + i * RECORD, splitters, partitions);
		counts[owners[i]]++;
	}
	for (size_t p = 0; p < partitions; p++)
		at[p + 1] = at[p] + counts[p];
	for (size_t i = 0; i < count; i++)
		memcpy(out + at[owners[i]]++ * RECORD, in + i * RECORD, RECORD);
	free(owners);
	free(at);
	return 0;
}
