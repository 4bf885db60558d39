#include "gensort.h"

#include <pthread.h>
#include <string.h>

enum { RECORD = 100, KEY = 10, GROUPS = 9, SKEW_ROWS = 129, SKEW_BYTES = 6 };

typedef unsigned __int128 u128;

#define U128(high, low) (((u128)(high) << 64) | (low))
static const u128 MULTIPLIER = U128(0x2360ed051fc65da4, 0x4385df649fccf645);
static const u128 INCREMENT = U128(0x4a696d4772617952, 0x4950202020202001);

/* What the nine payload groups of a binary record are masked with. */
static const uint8_t MASKS[GROUPS * KEY] = {
	0xf0, 0xe8, 0xe4, 0xe2, 0xe1, 0xd8, 0xd4, 0xd2, 0xd1, 0xcc,
	0xca, 0xc9, 0xc6, 0xc5, 0xc3, 0xb8, 0xb4, 0xb2, 0xb1, 0xac,
	0xaa, 0xa9, 0xa6, 0xa5, 0xa3, 0x9c, 0x9a, 0x99, 0x96, 0x95,
	0x93, 0x8e, 0x8d, 0x8b, 0x87, 0x78, 0x74, 0x72, 0x71, 0x6c,
	0x6a, 0x69, 0x66, 0x65, 0x63, 0x5c, 0x5a, 0x59, 0x56, 0x55,
	0x53, 0x4e, 0x4d, 0x4b, 0x47, 0x3c, 0x3a, 0x39, 0x36, 0x35,
	0x33, 0x2e, 0x2d, 0x2b, 0x27, 0x1e, 0x1d, 0x1b, 0x17, 0x0f,
	0xc8, 0xc4, 0xc2, 0xc1, 0x98, 0x94, 0x92, 0x91, 0x8c, 0xe0,
	0x17, 0x0f, 0x33, 0x2e, 0x2d, 0x2b, 0x27, 0x1e, 0x1d, 0x1b,
};

static u128 next(u128 x)
{
	return x * MULTIPLIER + INCREMENT;
}

/* X(steps): the affine map applied `steps` times to 0, by squaring. */
static u128 jump(uint64_t steps)
{
	u128 x = 0, factor = MULTIPLIER, addend = INCREMENT;
	for (; steps; steps >>= 1) {
		if (steps & 1)
			x = x * factor + addend;
		addend = addend * factor + addend;
		factor *= factor;
	}
	return x;
}

static void top_bytes(uint8_t *out, u128 x)
{
	uint64_t high = __builtin_bswap64((uint64_t)(x >> 64));
	uint16_t low = __builtin_bswap16((uint16_t)((uint64_t)x >> 48));
	memcpy(out, &high, sizeof high);
	memcpy(out + sizeof high, &low, sizeof low);
}

/* Eight base-95 digits of the high half, then two of the low half, least significant first. */
static void ascii_key(uint8_t *out, u128 x)
{
	uint64_t high = (uint64_t)(x >> 64), low = (uint64_t)x;
	for (int i = 0; i < 8; i++, high /= 95)
		out[i] = (uint8_t)(' ' + high % 95);
	for (int i = 8; i < KEY; i++, low /= 95)
		out[i] = (uint8_t)(' ' + low % 95);
}

/* Binary records: the keys of a stretch of the sequence lie one after the other in `stream`, and record r is the
 * 100 bytes from key r on, all but its own key masked. One new number a record. */
static void binary_records(uint8_t *out, uint64_t first, uint64_t count)
{
	enum { BLOCK = 512 };
	uint8_t stream[(BLOCK + GROUPS) * KEY];
	u128 x = jump(first);
	for (int i = 0; i < GROUPS; i++) {
		x = next(x);
		top_bytes(stream + i * KEY, x);
	}
	for (uint64_t done = 0; done < count; done += BLOCK) {
		uint64_t now = count - done < BLOCK ? count - done : BLOCK;
		for (uint64_t i = 0; i < now; i++) {
			x = next(x);
			top_bytes(stream + (i + GROUPS) * KEY, x);
		}
		for (uint64_t i = 0; i < now; i++, out += RECORD) {
			memcpy(out, stream + i * KEY, KEY);
			for (int byte = 0; byte < GROUPS * KEY; byte++)
				out[KEY + byte] = stream[(i + 1) * KEY + (uint64_t)byte] ^ MASKS[byte];
		}
		memmove(stream, stream + now * KEY, GROUPS * KEY);
	}
}

/* Two spaces, 32 hex digits of the record number, two spaces, 13 hex digits of X four times each, CR LF. */
static void ascii_payload(uint8_t *out, u128 x, uint64_t number)
{
	static const char HEX[] = "0123456789ABCDEF";
	memset(out, ' ', 2);
	memset(out + 2, '0', 16);
	for (int i = 0; i < 16; i++)
		out[18 + i] = (uint8_t)HEX[number >> (60 - 4 * i) & 15];
	memset(out + 34, ' ', 2);
	for (int i = 0; i < 13; i++)
		memset(out + 36 + 4 * i, HEX[(uint64_t)x >> (48 - 4 * i) & 15], 4);
	out[88] = '\r';
	out[89] = '\n';
}

static pthread_once_t tables_once = PTHREAD_ONCE_INIT;
static uint8_t skew_rows[2][SKEW_ROWS][SKEW_BYTES]; /* first key bytes of records 0..128, binary and ASCII */
static uint32_t crc_tables[8][256];

static void make_skew_rows(void)
{
	u128 x = 0;
	for (int row = 0; row < SKEW_ROWS; row++) {
		uint8_t key[KEY];
		x = next(x);
		top_bytes(key, x);
		memcpy(skew_rows[0][row], key, SKEW_BYTES);
		ascii_key(key, x);
		memcpy(skew_rows[1][row], key, SKEW_BYTES);
	}
}

static void make_crc_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
		crc_tables[0][i] = crc;
	}
	for (int table = 1; table < 8; table++)
		for (int i = 0; i < 256; i++)
			crc_tables[table][i] = crc_tables[table - 1][i] >> 8 ^ crc_tables[0][crc_tables[table - 1][i] & 255];
}

static void make_tables(void)
{
	make_skew_rows();
	make_crc_tables();
}

/* Replaces the first bits (ASCII: bytes) of a key by those of the row that belongs to the number's magnitude. */
static void skew_key(uint8_t *key, u128 x, uint64_t number, int ascii)
{
	int index = number ? 64 - __builtin_clzll(number) : 0;
	const uint8_t *row = skew_rows[ascii][index];
	unsigned amount = (unsigned)((uint64_t)x >> 32);
	if (ascii) {
		amount &= 7;
		memcpy(key, row, amount > SKEW_BYTES ? 0 : amount);
		return;
	}
	amount &= 63;
	if (amount > 8 * SKEW_BYTES)
		amount = 0;
	memcpy(key, row, amount / 8);
	if (amount % 8) {
		uint8_t kept = (uint8_t)(0xff >> amount % 8);
		key[amount / 8] = (uint8_t)((row[amount / 8] & ~kept) | (key[amount / 8] & kept));
	}
}

void gensort_generate(uint8_t *out, uint64_t first, uint64_t count, int ascii, int skewed)
{
	pthread_once(&tables_once, make_tables);
	if (!ascii)
		binary_records(out, first, count);
	if (!ascii && !skewed)
		return;
	u128 x = jump(first);
	for (uint64_t number = first; number < first + count; number++, out += RECORD) {
		x = next(x);
		if (ascii) {
			ascii_key(out, x);
			ascii_payload(out + KEY, x, number);
		}
		if (skewed)
			skew_key(out, x, number, ascii != 0);
	}
}

/* zlib's CRC-32 of one record, eight bytes a step. */
static uint32_t record_crc(const uint8_t *record)
{
	uint32_t crc = ~0u;
	int at = 0;
	for (; at + 8 <= RECORD; at += 8) {
		uint32_t low, high;
		memcpy(&low, record + at, 4);
		memcpy(&high, record + at + 4, 4);
		low ^= crc;
		crc = crc_tables[7][low & 255] ^ crc_tables[6][low >> 8 & 255] ^ crc_tables[5][low >> 16 & 255] ^
		      crc_tables[4][low >> 24] ^ crc_tables[3][high & 255] ^ crc_tables[2][high >> 8 & 255] ^
		      crc_tables[1][high >> 16 & 255] ^ crc_tables[0][high >> 24];
	}
	for (; at < RECORD; at++)
		crc = crc >> 8 ^ crc_tables[0][(crc ^ record[at]) & 255];
	return ~crc;
}

void gensort_check(const uint8_t *records, uint64_t count, gensort_summary *summary)
{
	pthread_once(&tables_once, make_tables);
	u128 checksum = U128(summary->checksum_high, summary->checksum_low);
	for (uint64_t i = 0; i < count; i++, records += RECORD) {
		checksum += record_crc(records);
		if (!i)
			continue;
		int order = memcmp(records - RECORD, records, KEY);
		if (order > 0 && !summary->unordered++)
			summary->first_unordered = summary->records + i;
		if (order == 0)
			summary->duplicates++;
	}
	summary->records += count;
	summary->checksum_high = (uint64_t)(checksum >> 64);
	summary->checksum_low = (uint64_t)checksum;
}
