#include "crc32c.h"

#include <immintrin.h>
#include <string.h>

enum {
	POLYNOMIAL = 0x82f63b78, /* reflected */
	LONG = 1360,             /* bytes of a stream: 3 * 1360 + 16 is one 4 KiB unit */
	SHORT = 256,
	SHIFT_MIN = 5, /* least bytes that a shift key can express: 8 * 5 >= 33 */
};

/* x^(2^k) modulo the polynomial, k < 64; reflected, so that bit 31 is x^0. */
static uint32_t powers[64];
static uint32_t key_long, key_long_twice, key_short, key_short_twice;

static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;
	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
		if (a & bit)
			product ^= b;
		b = (b >> 1) ^ ((b & 1) ? (uint32_t)POLYNOMIAL : 0);
	}
	return product;
}

/* x^exponent modulo the polynomial. */
static uint32_t power(uint64_t exponent)
{
	uint32_t product = 1u << 31;
	for (unsigned k = 0; exponent; k++, exponent >>= 1)
		if (exponent & 1)
			product = multiply(powers[k], product);
	return product;
}

/* Key for `shift` by `bytes` >= SHIFT_MIN. The carry-less product of two reflected values is one bit low and the
 * CRC instruction multiplies by x^32: 33 factors of x that the key leaves out. */
static uint32_t shift_key(size_t bytes)
{
	return power(8 * (uint64_t)bytes - 33);
}

static inline uint32_t shift(uint32_t state, uint32_t key)
{
	__m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)state), _mm_cvtsi32_si128((int)key), 0);
	return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((constructor)) static void make_keys(void)
{
	powers[0] = 1u << 30;
	for (unsigned k = 1; k < 64; k++)
		powers[k] = multiply(powers[k - 1], powers[k - 1]);
	key_long = shift_key(LONG);
	key_long_twice = shift_key(2 * LONG);
	key_short = shift_key(SHORT);
	key_short_twice = shift_key(2 * SHORT);
}

static inline uint64_t load(const uint8_t *at)
{
	uint64_t word;
	memcpy(&word, at, sizeof word);
	return word;
}

/* Three streams of `stride` bytes at once hide the instruction's latency of three cycles. */
static inline uint32_t three(uint32_t state, const uint8_t *at, size_t stride, uint32_t key, uint32_t key_twice)
{
	uint64_t a = state, b = 0, c = 0;
	for (size_t i = 0; i < stride; i += 8) {
		a = _mm_crc32_u64(a, load(at + i));
		b = _mm_crc32_u64(b, load(at + stride + i));
		c = _mm_crc32_u64(c, load(at + 2 * stride + i));
	}
	return shift((uint32_t)a, key_twice) ^ shift((uint32_t)b, key) ^ (uint32_t)c;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
	const uint8_t *at = data;
	uint32_t state = ~crc;
	for (; bytes >= 3 * LONG; at += 3 * LONG, bytes -= 3 * LONG)
		state = three(state, at, LONG, key_long, key_long_twice);
	for (; bytes >= 3 * SHORT; at += 3 * SHORT, bytes -= 3 * SHORT)
		state = three(state, at, SHORT, key_short, key_short_twice);
	for (; bytes >= 8; at += 8, bytes -= 8)
		state = (uint32_t)_mm_crc32_u64(state, load(at));
	for (; bytes; at++, bytes--)
		state = _mm_crc32_u8(state, *at);
	return ~state;
}

uint32_t crc32c_reference(uint32_t crc, const void *data, size_t bytes)
{
	const uint8_t *at = data;
	uint32_t state = ~crc;
	for (; bytes; at++, bytes--) {
		state ^= *at;
		for (int bit = 0; bit < 8; bit++)
			state = (state >> 1) ^ ((state & 1) ? (uint32_t)POLYNOMIAL : 0);
	}
	return ~state;
}

/* The state after `bytes` zero bytes. */
static uint32_t shift_bytes(uint32_t state, size_t bytes)
{
	if (bytes >= SHIFT_MIN)
		return shift(state, shift_key(bytes));
	for (; bytes; bytes--)
		state = _mm_crc32_u8(state, 0);
	return state;
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, size_t bytes_b)
{
	return shift_bytes(crc_a, bytes_b) ^ crc_b;
}

uint32_t crc32c_zeros(uint32_t crc, size_t bytes)
{
	return ~shift_bytes(~crc, bytes);
}

uint32_t crc32c_units(uint32_t *crcs, size_t unit_bytes, size_t start, const void *data, size_t bytes)
{
	const uint8_t *at = data;
	const uint32_t key = shift_key(unit_bytes);
	uint32_t total = 0;
	while (bytes) {
		size_t within = start % unit_bytes;
		size_t piece = unit_bytes - within < bytes ? unit_bytes - within : bytes;
		uint32_t crc = crc32c(0, at, piece);
		uint32_t *unit = &crcs[start / unit_bytes];
		*unit = within ? crc32c_combine(*unit, crc, piece) : crc;
		total = piece == unit_bytes ? shift(total, key) ^ crc : crc32c_combine(total, crc, piece);
		at += piece;
		start += piece;
		bytes -= piece;
	}
	return total;
}

uint32_t crc32c_fold(const uint32_t *crcs, size_t unit_bytes, size_t bytes)
{
	const uint32_t key = shift_key(unit_bytes);
	uint32_t total = 0;
	for (; bytes >= unit_bytes; bytes -= unit_bytes)
		total = shift(total, key) ^ *crcs++;
	return bytes ? crc32c_combine(total, *crcs, bytes) : total;
}
