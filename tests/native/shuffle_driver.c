/* Partitions and sorts random data with exactly sized buffers, so that a sanitizer sees every byte too far. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record_sort.h"
#include "shuffle.h"

enum { ROWS = 1000, PARTITIONS = 7, RECORD = 100, KEY = 10 };

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                        \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

static void *space(size_t bytes)
{
	void *found = malloc(bytes ? bytes : 1);
	CHECK(found);
	return found;
}

static void fill(uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = (uint8_t)rand();
}

static void scatter_round(size_t rows, size_t width)
{
	uint64_t *hashes = calloc(rows + 1, 8), counts[PARTITIONS] = {0}, next[PARTITIONS], sizes[PARTITIONS] = {0};
	uint32_t *owners = space(rows * 4), *places = space(rows * 4), *offsets = space((rows + 1) * 4);
	uint8_t *values = space(rows * width), *moved = space(rows * width), *bits = space(rows / 8 + 1);
	CHECK(hashes);
	fill(values, rows * width);
	fill(bits, rows / 8 + 1);
	offsets[0] = 0;
	for (size_t i = 0; i < rows; i++)
		offsets[i + 1] = offsets[i] + (uint32_t)rand() % 20;
	uint8_t *text = space(offsets[rows]), *moved_text = space(offsets[rows]);
	fill(text, offsets[rows]);
	shuffle_hash_strings(hashes, offsets, 4, text, bits, 1 & rows, rows - (1 & rows));
	shuffle_owners(owners, hashes, rows, PARTITIONS);
	CHECK(!shuffle_count(counts, owners, rows, PARTITIONS));
	CHECK(!rows || shuffle_count((uint64_t[PARTITIONS]){0}, owners, rows, 0) == -1);
	for (size_t p = 0, at = 0; p < PARTITIONS; at += counts[p++])
		next[p] = at;
	shuffle_places(places, next, owners, rows);
	shuffle_scatter(moved, values, width, places, rows);
	for (size_t i = 0; i < rows; i++)
		CHECK(!memcmp(moved + places[i] * width, values + i * width, width));
	shuffle_string_sizes(sizes, owners, offsets, 4, rows);
	uint64_t bases[PARTITIONS], text_next[PARTITIONS] = {0};
	for (size_t p = 0, at = 0; p < PARTITIONS; at += sizes[p++])
		bases[p] = at;
	uint32_t *moved_offsets = space((rows + PARTITIONS) * 4);
	shuffle_scatter_strings(moved_offsets, moved_text, offsets, 4, text, owners, places, bases, text_next, rows);
	CHECK(!memcmp(text_next, sizes, sizeof sizes));
	for (size_t i = 0; i < rows; i++)
		CHECK(!memcmp(moved_text + bases[owners[i]] + moved_offsets[places[i] + owners[i]], text + offsets[i],
			      offsets[i + 1] - offsets[i]));
	void *all[] = {hashes, owners, places, offsets, values, moved, bits, text, moved_text, moved_offsets};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
}

static void sort_round(size_t rows, int spread)
{
	uint8_t *in = space(rows * RECORD), *cut = space(rows * RECORD), *out = space(rows * RECORD);
	void *scratch = space(rows * 32);
	fill(in, rows * RECORD);
	for (size_t i = 0; i < rows; i++)
		for (int byte = 0; byte < KEY; byte++)
			in[i * RECORD + (size_t)byte] = (uint8_t)(rand() % spread);
	uint64_t half = rows / 3, counts[2] = {half, rows - half}, parts[3];
	const uint8_t *pieces[2] = {in, in + half * RECORD};
	record_sort(out, pieces, counts, 2, scratch);
	for (size_t i = 1; i < rows; i++)
		CHECK(memcmp(out + (i - 1) * RECORD, out + i * RECORD, KEY) <= 0);
	uint8_t splitters[2 * KEY];
	memcpy(splitters, out + rows / 4 * RECORD, KEY);
	memcpy(splitters + KEY, out + rows / 2 * RECORD, KEY);
	CHECK(!record_partition(cut, in, rows, splitters, 3, parts));
	CHECK(parts[0] + parts[1] + parts[2] == rows);
	for (size_t i = 0; i < parts[0]; i++)
		CHECK(memcmp(cut + i * RECORD, splitters, KEY) < 0);
	free(in);
	free(cut);
	free(out);
	free(scratch);
}

int main(void)
{
	static const size_t widths[] = {1, 2, 4, 7, 8, 16};
	for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
		scatter_round(ROWS + i, widths[i]);
		scatter_round(i, widths[i]);
	}
	for (int spread = 1; spread < 256; spread += 60)
		sort_round(ROWS, spread);
	return 0;
}
