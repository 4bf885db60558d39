/* Reads: on the caller's thread what the page cache holds, on the reader thread the rest. */
#include <stdlib.h>
#include <string.h>

#include "buffers.h"
#include "crc32c.h"
#include "engine_internal.h"

enum { ROUND_TASKS_MAX = 512 };

static void fill_answer(struct engine_read *op, const struct chunk *chunk)
{
	op->committed = op->pending = op->chain_version = 0;
	op->length = op->crc32c = 0;
	op->detail = 0;
	if (!chunk)
		return;
	if (chunk->committed) {
		op->committed = chunk->committed->version;
		op->chain_version = chunk->committed->chain_version;
	}
	if (chunk->pending)
		op->pending = chunk->pending->version;
}

/* With the lock: finds the state and says how many bytes the caller gets. */
static int resolve(struct engine *engine, struct read_task *task)
{
	struct engine_read *op = task->op;
	struct key key = {.target = op->target};
	struct chunk *chunk;
	memcpy(key.chunk, op->chunk, CHUNK_ID_BYTES);
	if (engine->failed)
		return ENGINE_DISK_FAILED;
	struct target *target = target_find(engine, op->target);
	if (!target || target->dropping)
		return ENGINE_NO_TARGET;
	int error = chunk_get(engine, &key, false, &chunk);
	if (error)
		return error;
	fill_answer(op, chunk);
	struct state *state = NULL;
	if (chunk)
		state = op->flags & ENGINE_READ_PENDING ? chunk->pending : chunk->committed;
	if (!state || op->offset >= state->length)
		return 0;
	op->length = state->length - op->offset < op->bytes ? state->length - op->offset : op->bytes;
	if (op->length)
		task->state = state_hold(state);
	return 0;
}

/* Which bytes of the block are fetched, and where they go. */
static int lay_out(struct engine *engine, struct read_task *task)
{
	const struct state *state = task->state;
	struct engine_read *op = task->op;
	if (op->offset >= state->stored_bytes)
		return 0;
	uint32_t unit = unit_bytes(state->chunk_bytes), end = op->offset + op->length;
	if (end > state->stored_bytes)
		end = state->stored_bytes;
	task->first = op->offset / unit * unit;
	task->last = (end + unit - 1) / unit * unit;
	if (task->last > state->stored_bytes)
		task->last = state->stored_bytes;
	task->head = op->offset - task->first;
	task->body = end - op->offset;
	task->tail = task->last - end;
	task->expected = task->last - task->first;
	bool past_cache = op->flags & ENGINE_READ_DISK;
	const struct place_id id = state->place->id;
	const struct block_class *class = &engine->blocks.classes[id.class_index];
	if (past_cache)
		task->expected = (task->expected + SECTOR - 1) / SECTOR * SECTOR;
	size_t bounce = past_cache ? task->expected : task->head + task->tail;
	if (bounce && !(task->bounce = buffer_alloc(bounce)))
		return ENGINE_NO_MEMORY;
	task->body_at = past_cache ? task->bounce + task->head : op->buffer;
	task->job.kind = IO_READ;
	task->job.fd = past_cache ? class->write_fd : class->read_fd;
	task->job.offset = blocks_offset(id) + task->first;
	return 0;
}

static void fill_job(struct read_task *task)
{
	struct io_job *job = &task->job;
	job->part_count = 0;
	if (task->op->flags & ENGINE_READ_DISK) {
		job->parts[job->part_count++] = (struct iovec){task->bounce, task->expected};
		return;
	}
	if (task->head)
		job->parts[job->part_count++] = (struct iovec){task->bounce, task->head};
	job->parts[job->part_count++] = (struct iovec){task->body_at, task->body};
	if (task->tail)
		job->parts[job->part_count++] = (struct iovec){task->bounce + task->head, task->tail};
}

/* CRC of [from, to) of the block, over the three pieces that it may lie in. */
static uint32_t crc_of(const struct read_task *task, uint32_t from, uint32_t to)
{
	const uint32_t body = task->first + task->head, tail = body + task->body;
	const bool whole = task->op->flags & ENGINE_READ_DISK;
	const uint8_t *tail_at = whole ? task->bounce + task->head + task->body : task->bounce + task->head;
	uint32_t crc = 0;
	if (from < body)
		crc = crc32c(crc, task->bounce + (from - task->first), (to < body ? to : body) - from);
	uint32_t begin = from > body ? from : body, end = to < tail ? to : tail;
	if (begin < end)
		crc = crc32c(crc, task->body_at + (begin - body), end - begin);
	begin = from > tail ? from : tail;
	if (begin < to)
		crc = crc32c(crc, tail_at + (begin - tail), to - begin);
	return crc;
}

static int check_units(struct read_task *task)
{
	const struct state *state = task->state;
	uint32_t unit = unit_bytes(state->chunk_bytes);
	for (uint32_t from = task->first; from < task->last; from += unit) {
		uint32_t to = from + unit < task->last ? from + unit : task->last;
		if (crc_of(task, from, to) != state->crcs[from / unit]) {
			task->op->detail = from / unit;
			return ENGINE_DISK_CRC;
		}
	}
	return 0;
}

/* CRC of the caller's bytes: whole units were just checked, so that their stored CRCs will do. */
static uint32_t crc_of_body(const struct read_task *task)
{
	const struct state *state = task->state;
	uint32_t unit = unit_bytes(state->chunk_bytes);
	uint32_t from = task->first + task->head, to = from + task->body;
	uint32_t inner = (from + unit - 1) / unit * unit, inner_end = task->tail ? to / unit * unit : to;
	if (inner >= inner_end)
		return crc_of(task, from, to);
	uint32_t crc = from < inner ? crc_of(task, from, inner) : 0;
	uint32_t folded = crc32c_fold(&state->crcs[inner / unit], unit, inner_end - inner);
	crc = from < inner ? crc32c_combine(crc, folded, inner_end - inner) : folded;
	if (inner_end < to)
		crc = crc32c_combine(crc, crc_of(task, inner_end, to), to - inner_end);
	return crc;
}

static int deliver(struct read_task *task)
{
	struct engine_read *op = task->op;
	if (task->body) {
		if (task->job.error || task->job.moved != task->expected)
			return ENGINE_DISK_CRC; /* unreadable, or beyond the end of the file */
		int error = check_units(task);
		if (error)
			return error;
		op->crc32c = crc_of_body(task);
		if (task->body_at != op->buffer)
			memcpy(op->buffer, task->body_at, task->body);
	}
	if (op->length > task->body) {
		memset((uint8_t *)op->buffer + task->body, 0, op->length - task->body);
		op->crc32c = crc32c_zeros(op->crc32c, op->length - task->body);
	}
	return 0;
}

void read_begin(struct engine *engine, struct read_task *task, struct engine_read *op)
{
	memset(task, 0, sizeof *task);
	task->op = op;
	op->error = resolve(engine, task);
}

void read_end(struct engine *engine, struct read_task *task)
{
	state_drop(&engine->chunks, task->state);
	if (task->op->error)
		task->op->length = 0;
}

void read_cached(struct engine *engine, struct read_task *task)
{
	struct engine_read *op = task->op;
	if (op->error || !task->state)
		return;
	op->error = op->flags & ENGINE_READ_DISK ? ENGINE_UNFINISHED : lay_out(engine, task);
	if (!op->error && task->body) {
		fill_job(task);
		struct io_job *job = &task->job;
		ssize_t moved = preadv2(job->fd, job->parts, (int)job->part_count, (off_t)job->offset, RWF_NOWAIT);
		job->moved = moved < 0 ? 0 : (size_t)moved;
		if (job->moved != task->expected)
			op->error = ENGINE_UNFINISHED;
	}
	if (!op->error)
		op->error = deliver(task);
	buffer_free(task->bounce);
}

uint32_t engine_read_now(struct engine *engine, struct engine_read *reads, uint32_t count)
{
	struct read_task tasks[NOW_TASKS];
	uint32_t left = 0;
	for (uint32_t done = 0; done < count; done += NOW_TASKS) {
		uint32_t share = count - done < NOW_TASKS ? count - done : NOW_TASKS;
		pthread_mutex_lock(&engine->lock);
		for (uint32_t i = 0; i < share; i++)
			read_begin(engine, &tasks[i], &reads[done + i]);
		pthread_mutex_unlock(&engine->lock);
		for (uint32_t i = 0; i < share; i++)
			read_cached(engine, &tasks[i]);
		pthread_mutex_lock(&engine->lock);
		for (uint32_t i = 0; i < share; i++) {
			left += tasks[i].op->error == ENGINE_UNFINISHED;
			read_end(engine, &tasks[i]);
		}
		pthread_mutex_unlock(&engine->lock);
	}
	return left;
}

/* Takes whole batches until the round is full; a larger batch is a round of its own. Returns the number of reads. */
static uint32_t take_round(struct engine *engine, struct batch_list *taken)
{
	uint32_t count = 0;
	while (engine->read_queue.first && (!count || count + engine->read_queue.first->count <= ROUND_TASKS_MAX)) {
		struct batch *batch = engine->read_queue.first;
		engine->read_queue.first = batch->next;
		count += batch->count;
		batch_append(taken, batch);
	}
	return count;
}

static void submit(struct engine *engine, struct read_task *task)
{
	if (task->op->error || !task->state)
		return;
	task->op->error = lay_out(engine, task);
	if (!task->op->error && task->body) {
		fill_job(task);
		engine->io->submit(engine->read_queue_io, &task->job);
	}
}

static void read_round(struct engine *engine, struct batch_list *taken, struct read_task *tasks)
{
	uint32_t count = 0;
	pthread_mutex_lock(&engine->lock);
	for (struct batch *batch = taken->first; batch; batch = batch->next)
		for (uint32_t i = 0; i < batch->count; i++)
			if (!tasks)
				batch->reads[i].error = ENGINE_NO_MEMORY;
			else if (batch->reads[i].error == ENGINE_UNFINISHED)
				read_begin(engine, &tasks[count++], &batch->reads[i]);
	pthread_mutex_unlock(&engine->lock);
	for (uint32_t i = 0; i < count; i++)
		submit(engine, &tasks[i]);
	engine->io->wait(engine->read_queue_io);
	for (uint32_t i = 0; i < count; i++) {
		if (!tasks[i].op->error && tasks[i].state)
			tasks[i].op->error = deliver(&tasks[i]);
		buffer_free(tasks[i].bounce);
	}
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < count; i++)
		read_end(engine, &tasks[i]);
	complete(engine, taken);
	pthread_mutex_unlock(&engine->lock);
}

void *reader_main(void *argument)
{
	struct engine *engine = argument;
	for (;;) {
		struct batch_list taken = {0};
		pthread_mutex_lock(&engine->lock);
		while (!engine->read_queue.first && !engine->stopping)
			pthread_cond_wait(&engine->read_work, &engine->lock);
		uint32_t count = take_round(engine, &taken);
		pthread_mutex_unlock(&engine->lock);
		if (!taken.first)
			return NULL;
		struct read_task *tasks = malloc((count ? count : 1) * sizeof *tasks);
		read_round(engine, &taken, tasks);
		free(tasks);
	}
}
