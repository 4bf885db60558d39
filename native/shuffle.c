#include "shuffle.h"

#include <string.h>

static const uint64_t NULL_VALUE = 0x6e756c6c6e756c6cull, NAN_BITS = 0x7ff8000000000000ull;
static const uint64_t STEP = 0x9e3779b97f4a7c15ull;

static inline uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

static inline int is_set(const uint8_t *bits, size_t index)
{
	return bits[index >> 3] >> (index & 7) & 1;
}

static inline uint64_t float_value(uint64_t bits)
{
	uint64_t magnitude = bits & ~(1ull << 63);
	if (!magnitude)
		return 0;
	return magnitude > 0x7ff0000000000000ull ? NAN_BITS : bits;
}

void shuffle_hash_numbers(uint64_t *hashes, const uint64_t *numbers, int floats, const uint8_t *valid,
			  size_t valid_offset, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t value = floats ? float_value(numbers[i]) : numbers[i];
		if (valid && !is_set(valid, valid_offset + i))
			value = NULL_VALUE;
		hashes[i] = mix((hashes[i] ^ value) + STEP);
	}
}

static inline uint64_t offset_at(const void *offsets, size_t offset_bytes, size_t index)
{
	return offset_bytes == 4 ? ((const uint32_t *)offsets)[index] : ((const uint64_t *)offsets)[index];
}

static uint64_t string_value(const uint8_t *bytes, uint64_t length)
{
	uint64_t value = length, word;
	for (; length >= 8; length -= 8, bytes += 8) {
		memcpy(&word, bytes, 8);
		value = mix(value ^ word);
	}
	if (!length)
		return value;
	word = 0;
	memcpy(&word, bytes, length);
	return mix(value ^ word);
}

void shuffle_hash_strings(uint64_t *hashes, const void *offsets, size_t offset_bytes, const uint8_t *bytes,
			  const uint8_t *valid, size_t valid_offset, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t value = NULL_VALUE;
		if (!valid || is_set(valid, valid_offset + i)) {
			uint64_t begin = offset_at(offsets, offset_bytes, i);
			value = string_value(bytes + begin, offset_at(offsets, offset_bytes, i + 1) - begin);
		}
		hashes[i] = mix((hashes[i] ^ value) + STEP);
	}
}

void shuffle_owners(uint32_t *owners, const uint64_t *hashes, size_t count, uint32_t partitions)
{
	for (size_t i = 0; i < count; i++)
		owners[i] = (uint32_t)((hashes[i] >> 32) * partitions >> 32);
}

int shuffle_count(uint64_t *counts, const uint32_t *owners, size_t count, uint32_t partitions)
{
	for (size_t i = 0; i < count; i++) {
		if (owners[i] >= partitions)
			return -1;
		counts[owners[i]]++;
	}
	return 0;
}

void shuffle_string_sizes(uint64_t *sizes, const uint32_t *owners, const void *offsets, size_t offset_bytes,
			  size_t count)
{
	for (size_t i = 0; i < count; i++)
		sizes[owners[i]] += offset_at(offsets, offset_bytes, i + 1) - offset_at(offsets, offset_bytes, i);
}

void shuffle_places(uint32_t *places, uint64_t *next, const uint32_t *owners, size_t count)
{
	for (size_t i = 0; i < count; i++)
		places[i] = (uint32_t)next[owners[i]]++;
}

#define SCATTER(type)                                                                                                  \
	for (size_t i = 0; i < count; i++)                                                                             \
	memcpy(out + (size_t)places[i] * sizeof(type), in + i * sizeof(type), sizeof(type))

void shuffle_scatter(uint8_t *out, const uint8_t *in, size_t width, const uint32_t *places, size_t count)
{
	switch (width) {
	case 1: SCATTER(uint8_t); return;
	case 2: SCATTER(uint16_t); return;
	case 4: SCATTER(uint32_t); return;
	case 8: SCATTER(uint64_t); return;
	case 16: SCATTER(unsigned __int128); return;
	default:
		for (size_t i = 0; i < count; i++)
			memcpy(out + places[i] * width, in + i * width, width);
	}
}

void shuffle_scatter_bits(uint8_t *out, const uint8_t *bits, size_t bit_offset, const uint32_t *places, size_t count)
{
	for (size_t i = 0; i < count; i++)
		out[places[i]] = (uint8_t)is_set(bits, bit_offset + i);
}

static inline void put_offset(void *offsets, size_t offset_bytes, size_t index, uint64_t value)
{
	if (offset_bytes == 4)
		((uint32_t *)offsets)[index] = (uint32_t)value;
	else
		((uint64_t *)offsets)[index] = value;
}

void shuffle_scatter_strings(void *out_offsets, uint8_t *out_bytes, const void *offsets, size_t offset_bytes,
			     const uint8_t *bytes, const uint32_t *owners, const uint32_t *places,
			     const uint64_t *bases, uint64_t *next, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t owner = owners[i];
		uint64_t begin = offset_at(offsets, offset_bytes, i);
		uint64_t length = offset_at(offsets, offset_bytes, i + 1) - begin, at = next[owner];
		put_offset(out_offsets, offset_bytes, (size_t)places[i] + owner, at);
		if (length)
			memcpy(out_bytes + bases[owner] + at, bytes + begin, length);
		next[owner] = at + length;
	}
}
