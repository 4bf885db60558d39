#include "read_reply.h"

#include <string.h>

#include "crc32c.h"
#include "engine.h"

int read_reply_is_plain(const void *requests, const void *replies, uint32_t count, const uint8_t *data,
			size_t data_bytes)
{
	for (uint32_t i = 0; i < count; i++) {
		struct engine_frame_read asked;
		struct engine_frame_reply got;
		memcpy(&asked, (const uint8_t *)requests + i * sizeof asked, sizeof asked);
		memcpy(&got, (const uint8_t *)replies + i * sizeof got, sizeof got);
		if (got.status || got.message_bytes || got.reserved || got.bytes != asked.bytes ||
		    got.bytes > data_bytes || crc32c(0, data, got.bytes) != got.crc32c)
			return 0;
		data += got.bytes;
		data_bytes -= got.bytes;
	}
	return data_bytes == 0;
}
