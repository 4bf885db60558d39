#include "record_sort.h"

#include <stdlib.h>
#include <string.h>

enum { RECORD = 100, KEY = 10, SMALL = 40, DIGITS = 256, PREFETCH = 16 };

/* A key as two numbers that compare like it: 8 bytes, and 2 bytes above the 48 bits of the record's address. */
struct entry {
	uint64_t high;
	uint64_t rest;
};

enum { ADDRESS_BITS = 48 };

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
	return a->high != b->high ? a->high > b->high : a->rest >> ADDRESS_BITS > b->rest >> ADDRESS_BITS;
}

static unsigned digit(const struct entry *entry, unsigned level)
{
	return (unsigned)((level < 8 ? entry->high : entry->rest) >> (56 - 8 * (level % 8)) & 255);
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

static const uint8_t *record_of(const struct entry *entry)
{
	return (const uint8_t *)(uintptr_t)(entry->rest & ((1ull << ADDRESS_BITS) - 1));
}

static size_t make_entries(struct entry *entries, const uint8_t *const *pieces, const uint64_t *counts, size_t pieces_count)
{
	size_t total = 0;
	for (size_t piece = 0; piece < pieces_count; piece++) {
		const uint8_t *record = pieces[piece];
		for (uint64_t i = 0; i < counts[piece]; i++, record += RECORD)
			entries[total++] = (struct entry){
				key_high(record), (uint64_t)key_low(record) << ADDRESS_BITS | (uint64_t)(uintptr_t)record};
	}
	return total;
}

void record_sort(uint8_t *out, const uint8_t *const *pieces, const uint64_t *counts, size_t pieces_count, void *scratch)
{
	struct entry *entries = scratch;
	size_t count = make_entries(entries, pieces, counts, pieces_count);
	sort_from(entries, entries + count, count, 0);
	for (size_t i = 0; i < count; i++) {
		if (i + PREFETCH < count)
			__builtin_prefetch(record_of(&entries[i + PREFETCH]));
		memcpy(out + i * RECORD, record_of(&entries[i]), RECORD);
	}
}

/* Number of splitters that are not above the record's key. */
static uint32_t partition_of(const uint8_t *record, const struct entry *splitters, size_t partitions)
{
	uint64_t high = key_high(record), low = key_low(record);
	size_t below = 0, above = partitions - 1;
	while (below < above) {
		size_t middle = (below + above) / 2;
		const struct entry *splitter = &splitters[middle];
		if (splitter->high < high || (splitter->high == high && splitter->rest <= low))
			below = middle + 1;
		else
			above = middle;
	}
	return (uint32_t)below;
}

int record_partition(uint8_t *out, const uint8_t *in, size_t count, const uint8_t *splitters, size_t partitions,
                     uint64_t *counts)
{
	uint32_t *owners = malloc((count + 1) * sizeof *owners);
	uint64_t *at = calloc(partitions + 1, sizeof *at);
	struct entry *keys = malloc(partitions * sizeof *keys);
	int failed = !owners || !at || !keys;
	if (failed)
		goto out;
	for (size_t p = 0; p + 1 < partitions; p++)
		keys[p] = (struct entry){key_high(splitters + p * KEY), key_low(splitters + p * KEY)};
	memset(counts, 0, partitions * sizeof *counts);
	for (size_t i = 0; i < count; i++) {
		owners[i] = partition_of(in + i * RECORD, keys, partitions);
		counts[owners[i]]++;
	}
	for (size_t p = 0; p < partitions; p++)
		at[p + 1] = at[p] + counts[p];
	for (size_t i = 0; i < count; i++)
		memcpy(out + at[owners[i]]++ * RECORD, in + i * RECORD, RECORD);
out:
	free(owners);
	free(at);
	free(keys);
	return failed ? -1 : 0;
}
