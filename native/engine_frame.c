/* Whole read frames, from the descriptors of the request to those of the reply, for what the page cache holds. */
#include <string.h>

#include "engine_internal.h"

enum { FLAG_RELAXED = 1, FRAME_END_MAX = 64 << 20 };

struct frame {
	struct engine *engine;
	const uint8_t *reads;
	const struct engine_grant *grants, *grant; /* the one that fitted last */
	uint32_t grant_count;
	uint8_t *data;
	uint64_t data_bytes, used;
	uint8_t *replies;
};

static const struct engine_grant *find_grant(struct frame *frame, const struct engine_frame_read *read)
{
	const struct engine_grant *last = frame->grants + frame->grant_count, *grant = frame->grant;
	for (uint32_t i = 0; i <= frame->grant_count; i++) {
		if (grant->target == read->target && grant->chain == read->chain &&
		    grant->chain_version == read->chain_version)
			return frame->grant = grant;
		grant = grant + 1 == last ? frame->grants : grant + 1;
	}
	return NULL;
}

static bool is_plain(const struct engine_frame_read *read)
{
	static const uint8_t reserved[4];
	return !(read->flags & ~(uint32_t)FLAG_RELAXED) && !memcmp(read->chunk + 8, reserved, sizeof reserved) &&
	       read->offset <= FRAME_END_MAX && read->bytes <= FRAME_END_MAX - read->offset;
}

/* With the lock: finds the state and gives it a place in the data; false if the frame cannot be answered here. */
static bool begin(struct frame *frame, uint32_t index, struct read_task *task, struct engine_read *op)
{
	struct engine_frame_read read;
	memcpy(&read, frame->reads + index * sizeof read, sizeof read);
	const struct engine_grant *grant = find_grant(frame, &read);
	*op = (struct engine_read){.target = read.target, .offset = read.offset, .bytes = read.bytes};
	memcpy(op->chunk, read.chunk, sizeof op->chunk);
	memset(task, 0, sizeof *task);
	if (!grant || !is_plain(&read))
		return false;
	read_begin(frame->engine, task, op);
	op->buffer = frame->data + frame->used;
	if (op->error || op->length > frame->data_bytes - frame->used)
		return false;
	frame->used += op->length;
	return !op->pending || grant->is_authority || (read.flags & FLAG_RELAXED);
}

static void reply(struct frame *frame, uint32_t index, const struct engine_read *op)
{
	struct engine_frame_reply answer = {.bytes = op->length, .crc32c = op->crc32c, .version = op->committed};
	memcpy(frame->replies + index * sizeof answer, &answer, sizeof answer);
}

static bool answer_slice(struct frame *frame, uint32_t first, uint32_t count)
{
	struct read_task tasks[NOW_TASKS];
	struct engine_read ops[NOW_TASKS];
	uint32_t begun = 0;
	bool good = true;
	pthread_mutex_lock(&frame->engine->lock);
	while (good && begun < count) {
		good = begin(frame, first + begun, &tasks[begun], &ops[begun]);
		begun++;
	}
	pthread_mutex_unlock(&frame->engine->lock);
	for (uint32_t i = 0; good && i < count; i++) {
		read_cached(frame->engine, &tasks[i]);
		good = !ops[i].error;
		reply(frame, first + i, &ops[i]);
	}
	pthread_mutex_lock(&frame->engine->lock);
	for (uint32_t i = 0; i < begun; i++)
		if (tasks[i].op)
			read_end(frame->engine, &tasks[i]);
	pthread_mutex_unlock(&frame->engine->lock);
	return good;
}

int64_t engine_read_frame(struct engine *engine, const void *reads, uint32_t count, const struct engine_grant *grants,
			  uint32_t grant_count, uint8_t *data, uint64_t data_bytes, void *replies)
{
	struct frame frame = {.engine = engine, .reads = reads, .grants = grants, .grant = grants,
			      .grant_count = grant_count, .data = data, .data_bytes = data_bytes, .replies = replies};
	if (!grant_count)
		return -1;
	for (uint32_t done = 0; done < count; done += NOW_TASKS) {
		uint32_t share = count - done < NOW_TASKS ? count - done : NOW_TASKS;
		if (!answer_slice(&frame, done, share))
			return -1;
	}
	return (int64_t)frame.used;
}
