/* One update from its descriptor to bytes on the way to the disk. Runs on the writer thread. */
#include <errno.h>
#include <string.h>

#include "buffers.h"
#include "crc32c.h"
#include "engine_internal.h"

static uint32_t padded(uint32_t bytes)
{
	return (bytes + SECTOR - 1) & ~(uint32_t)(SECTOR - 1);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static uint32_t stored_of(const struct state *state)
{
	return state ? state->stored_bytes : 0;
}

static uint32_t length_of(const struct state *state)
{
	return state ? state->length : 0;
}

static int check_version(struct engine_update *update, const struct state *base)
{
	uint64_t committed = base ? base->version : 0;
	update->detail = committed;
	if (update->kind == ENGINE_REPLACE && base && update->chain_version > base->chain_version && update->version)
		return 0;
	if (update->version <= committed)
		return ENGINE_STALE;
	if (update->kind != ENGINE_REPLACE && update->version != committed + 1)
		return ENGINE_MISSING;
	return 0;
}

static int check_range(struct engine_update *update, const struct state *base)
{
	uint32_t chunk_bytes = update->chunk_bytes;
	update->detail = base ? base->chunk_bytes : 0;
	if (chunk_bytes < (1u << BLOCK_SHIFT_MIN) || chunk_bytes > (1u << BLOCK_SHIFT_MAX) ||
	    (chunk_bytes & (chunk_bytes - 1)) || (base && base->chunk_bytes != chunk_bytes))
		return ENGINE_BAD_REQUEST;
	if (update->kind < ENGINE_WRITE || update->kind > ENGINE_REMOVE)
		return ENGINE_BAD_REQUEST;
	if (update->kind != ENGINE_WRITE && update->offset)
		return ENGINE_BAD_REQUEST;
	return update->offset > chunk_bytes || update->bytes > chunk_bytes - update->offset ? ENGINE_BAD_REQUEST : 0;
}

static bool may_append(const struct state *base, uint32_t offset, uint32_t end)
{
	return base && base->place && offset >= base->stored_bytes && base->stored_bytes % SECTOR == 0 &&
	       base->place->high == base->stored_bytes && end <= blocks_bytes(base->place->id.class_index);
}

/* Decides mode, length and stored bytes of the new content. */
static enum mode choose(const struct engine_update *update, const struct state *base, uint32_t *length,
			uint32_t *stored)
{
	uint32_t end = update->offset + update->bytes, was = stored_of(base);
	*length = length_of(base);
	*stored = was;
	switch (update->kind) {
	case ENGINE_WRITE:
		if (!update->bytes)
			return MODE_SHARE;
		*length = larger(*length, end);
		*stored = larger(was, end);
		if (may_append(base, update->offset, end))
			return MODE_APPEND;
		return update->offset == 0 && end >= was ? MODE_FRESH : MODE_COPY;
	case ENGINE_REPLACE:
		*length = *stored = update->bytes;
		return update->bytes ? MODE_FRESH : MODE_SHARE;
	case ENGINE_EXTEND:
		*length = larger(*length, update->bytes);
		return MODE_SHARE;
	case ENGINE_TRUNCATE:
		*length = update->bytes;
		if (update->bytes >= was)
			return MODE_SHARE;
		*stored = update->bytes;
		return update->bytes % unit_bytes(update->chunk_bytes) ? MODE_CUT : MODE_SHARE;
	default:
		*length = *stored = 0;
		return MODE_SHARE;
	}
}

static bool is_within_limits(struct engine *engine, uint64_t more, bool creating)
{
	uint64_t live, idle, capacity = engine->options.capacity_bytes;
	if (!capacity)
		return true;
	blocks_count(&engine->blocks, &live, &idle);
	if (creating)
		capacity = capacity * engine->options.use_permille_max / 1000;
	return live + more <= capacity;
}

/* Adds a group, with the lock let go while the file grows: only this thread adds groups. A full disk is first given
 * what other classes no longer use. */
static int grow(struct engine *engine, uint32_t class_index)
{
	uint64_t index = blocks_next_group(&engine->blocks, class_index);
	pthread_mutex_unlock(&engine->lock);
	int status = blocks_allocate_group(&engine->blocks, class_index, index);
	pthread_mutex_lock(&engine->lock);
	if (status == ENOSPC && blocks_release_empty(&engine->blocks))
		status = blocks_allocate_group(&engine->blocks, class_index, index);
	if (status == ENOSPC || status == EDQUOT || status == EFBIG)
		return ENGINE_NO_SPACE;
	if (status) {
		engine_fail(engine, "growing a block file", status);
		return ENGINE_DISK_FAILED;
	}
	return blocks_add_group(&engine->blocks, class_index, index) ? 0 : ENGINE_NO_MEMORY;
}

/* Class for a copy. A chunk that grows a second time gets room to grow on without being copied at each step. */
static uint32_t class_for(const struct task *task, uint32_t stored)
{
	const struct state *base = task->base;
	uint64_t wanted = stored;
	if (base && base->place && task->mode == MODE_COPY) {
		uint64_t block = blocks_bytes(base->place->id.class_index);
		if (stored > block && wanted < 4 * block)
			wanted = 4 * block;
		if (wanted > task->update->chunk_bytes)
			wanted = task->update->chunk_bytes;
	}
	return blocks_class_for(wanted);
}

static int take_place(struct engine *engine, struct task *task, uint32_t stored)
{
	uint32_t class_index = class_for(task, stored);
	struct place_id id;
	if (!is_within_limits(engine, blocks_bytes(class_index), !task->base))
		return ENGINE_NO_SPACE;
	if (!blocks_take(&engine->blocks, class_index, &id)) {
		int error = grow(engine, class_index);
		if (error)
			return error;
		bool taken = blocks_take(&engine->blocks, class_index, &id);
		if (!taken)
			return ENGINE_NO_SPACE;
	}
	task->state->place = place_new(id);
	if (!task->state->place) {
		blocks_give_back(&engine->blocks, id);
		return ENGINE_NO_MEMORY;
	}
	task->state->place->high = stored;
	return 0;
}

static int give_place(struct engine *engine, struct task *task, uint32_t stored)
{
	if (!stored)
		return 0;
	if (task->mode == MODE_FRESH || task->mode == MODE_COPY)
		return take_place(engine, task, stored);
	task->state->place = task->base->place;
	task->state->place->refs++;
	if (task->mode == MODE_APPEND)
		task->state->place->high = stored;
	return 0;
}

static int plan(struct engine *engine, struct task *task)
{
	struct engine_update *update = task->update;
	struct key key = {.target = update->target};
	memcpy(key.chunk, update->chunk, CHUNK_ID_BYTES);
	struct target *target = target_find(engine, update->target);
	if (!target || target->dropping)
		return ENGINE_NO_TARGET;
	if (!engine->reserve_held && update->kind != ENGINE_REMOVE)
		return ENGINE_NO_SPACE;
	struct chunk *chunk;
	int error = chunk_get(engine, &key, true, &chunk);
	if (!error)
		error = check_version(update, chunk->committed);
	if (!error)
		error = check_range(update, chunk->committed);
	if (error)
		return error;
	uint32_t length, stored;
	task->chunk = chunk;
	chunk->pins++;
	task->base = state_hold(task->chunk->committed);
	task->mode = choose(update, task->base, &length, &stored);
	task->state = state_new(update->chunk_bytes, stored);
	if (!task->state)
		return ENGINE_NO_MEMORY;
	task->chunk->staging = task->state;
	task->state->length = length;
	task->state->version = update->version;
	task->state->chain_version = update->chain_version;
	task->state->modified_us = wall_us();
	task->state->ticket = update->ticket;
	task->state->flags = update->kind == ENGINE_REMOVE ? STATE_REMOVED : 0;
	return give_place(engine, task, stored);
}

static int take_bounce(struct task *task, size_t bytes)
{
	task->bounce = buffer_alloc(bytes);
	task->bounce_bytes = bytes;
	return task->bounce ? 0 : ENGINE_NO_MEMORY;
}

static void start(struct engine *engine, struct task *task, struct io_job *job, enum io_kind kind, uint64_t offset)
{
	struct place_id id = (kind == IO_READ ? task->base : task->state)->place->id;
	const struct block_class *class = &engine->blocks.classes[id.class_index];
	job->kind = kind;
	job->fd = kind == IO_READ ? class->read_fd : class->write_fd;
	job->offset = blocks_offset(id) + offset;
	if (kind == IO_WRITE) {
		task->writes = true;
		engine->group.touched[id.class_index] = true;
	} else {
		task->reads = true;
	}
	engine->io->submit(engine->write_queue, job);
}

/* Writes the assembled bounce buffer, whose first byte belongs at `offset` of the block. */
static void start_write_bounce(struct engine *engine, struct task *task, uint32_t offset)
{
	task->write.part_count = 1;
	task->write.parts[0] = (struct iovec){task->bounce, task->bounce_bytes};
	start(engine, task, &task->write, IO_WRITE, offset);
}

/* Writes the caller's bytes without copying them, save for the last sector. */
static int start_write_direct(struct engine *engine, struct task *task, uint32_t offset)
{
	const struct engine_update *update = task->update;
	uint32_t tail = update->bytes % SECTOR, head = update->bytes - tail;
	struct io_job *job = &task->write;
	job->part_count = 0;
	if (head)
		job->parts[job->part_count++] = (struct iovec){(void *)update->data, head};
	if (tail) {
		int error = take_bounce(task, SECTOR);
		if (error)
			return error;
		memcpy(task->bounce, (const uint8_t *)update->data + head, tail);
		memset(task->bounce + tail, 0, SECTOR - tail);
		job->parts[job->part_count++] = (struct iovec){task->bounce, SECTOR};
	}
	start(engine, task, job, IO_WRITE, offset);
	return 0;
}

static int check_data(struct engine_update *update, uint32_t crc)
{
	if (!update->has_crc || crc == update->crc32c)
		return 0;
	update->detail = crc;
	return ENGINE_DATA_CRC;
}

/* FRESH and APPEND: the bytes from `begin` on, zeros before the data if it leaves a gap. */
static int write_forward(struct engine *engine, struct task *task, uint32_t begin)
{
	struct engine_update *update = task->update;
	struct state *state = task->state;
	uint32_t unit = unit_bytes(state->chunk_bytes), gap = update->offset - begin;
	if (begin)
		memcpy(state->crcs, task->base->crcs, unit_count(task->base) * sizeof(uint32_t));
	bool aligned = (uintptr_t)update->data % engine->blocks.memory_align == 0;
	if (!gap && aligned) {
		int error = check_data(update, crc32c_units(state->crcs, unit, begin, update->data, update->bytes));
		return error ? error : start_write_direct(engine, task, begin);
	}
	int error = take_bounce(task, padded(gap + update->bytes));
	if (error)
		return error;
	memset(task->bounce, 0, gap);
	memcpy(task->bounce + gap, update->data, update->bytes);
	memset(task->bounce + gap + update->bytes, 0, task->bounce_bytes - gap - update->bytes);
	uint32_t crc = crc32c_units(state->crcs, unit, begin, task->bounce, gap + update->bytes);
	error = check_data(update, gap && update->has_crc ? crc32c(0, task->bounce + gap, update->bytes) : crc);
	if (!error)
		start_write_bounce(engine, task, begin);
	return error;
}

/* Checks the units of the base that the data does not replace altogether. */
static int check_base(struct task *task, uint32_t begin, uint32_t end)
{
	const struct state *base = task->base;
	uint32_t unit = unit_bytes(base->chunk_bytes);
	for (uint32_t i = 0; i < unit_count(base); i++) {
		uint32_t first = i * unit;
		uint32_t last = first + unit < base->stored_bytes ? first + unit : base->stored_bytes;
		if (first >= begin && last <= end)
			continue;
		if (crc32c(0, task->bounce + first, last - first) != base->crcs[i]) {
			task->update->detail = i;
			return ENGINE_DISK_CRC;
		}
	}
	return 0;
}

/* COPY: the base's content stands in the bounce buffer; lays zeros and data over it and writes it all. */
static int write_copy(struct engine *engine, struct task *task)
{
	struct engine_update *update = task->update;
	struct state *state = task->state;
	uint32_t begin = update->offset, end = begin + update->bytes, was = stored_of(task->base);
	uint32_t unit = unit_bytes(state->chunk_bytes), stored = state->stored_bytes;
	int error = task->base ? check_base(task, begin, end) : 0;
	if (error)
		return error;
	if (begin > was)
		memset(task->bounce + was, 0, begin - was);
	memcpy(task->bounce + begin, update->data, update->bytes);
	memset(task->bounce + stored, 0, task->bounce_bytes - stored);
	if (task->base)
		memcpy(state->crcs, task->base->crcs, unit_count(task->base) * sizeof(uint32_t));
	uint32_t first = (begin < was ? begin : was) / unit * unit;
	uint32_t last = (end + unit - 1) / unit * unit;
	crc32c_units(state->crcs, unit, first, task->bounce + first, (last < stored ? last : stored) - first);
	start_write_bounce(engine, task, 0);
	return 0;
}

static int begin_copy(struct engine *engine, struct task *task)
{
	struct engine_update *update = task->update;
	int error = update->has_crc ? check_data(update, crc32c(0, update->data, update->bytes)) : 0;
	if (!error)
		error = take_bounce(task, padded(task->state->stored_bytes));
	if (error)
		return error;
	if (!stored_of(task->base))
		return write_copy(engine, task);
	task->read.part_count = 1;
	task->read.parts[0] = (struct iovec){task->bounce, task->base->stored_bytes};
	start(engine, task, &task->read, IO_READ, 0);
	return 0;
}

static void share(struct task *task)
{
	if (task->base && task->state->stored_bytes)
		memcpy(task->state->crcs, task->base->crcs, unit_count(task->state) * sizeof(uint32_t));
}

static int begin_cut(struct engine *engine, struct task *task)
{
	uint32_t unit = unit_bytes(task->state->chunk_bytes), first = task->state->stored_bytes / unit * unit;
	uint32_t left = task->base->stored_bytes - first;
	share(task);
	int error = take_bounce(task, unit);
	if (error)
		return error;
	task->read.part_count = 1;
	task->read.parts[0] = (struct iovec){task->bounce, left < unit ? left : unit};
	start(engine, task, &task->read, IO_READ, first);
	return 0;
}

static int finish_cut(struct task *task)
{
	uint32_t unit = unit_bytes(task->state->chunk_bytes), index = task->state->stored_bytes / unit;
	if (crc32c(0, task->bounce, task->read.moved) != task->base->crcs[index]) {
		task->update->detail = index;
		return ENGINE_DISK_CRC;
	}
	task->state->crcs[index] = crc32c(0, task->bounce, task->state->stored_bytes % unit);
	return 0;
}

int stage_begin(struct engine *engine, struct task *task)
{
	pthread_mutex_lock(&engine->lock);
	int error = engine->failed ? ENGINE_DISK_FAILED : plan(engine, task);
	pthread_mutex_unlock(&engine->lock);
	if (error)
		return error;
	switch (task->mode) {
	case MODE_FRESH:
		return write_forward(engine, task, 0);
	case MODE_APPEND:
		return write_forward(engine, task, task->base->stored_bytes);
	case MODE_COPY:
		return begin_copy(engine, task);
	case MODE_CUT:
		return begin_cut(engine, task);
	default:
		share(task);
		return 0;
	}
}

void stage_continue(struct engine *engine, struct task *task)
{
	if (!task->reads || task->error)
		return;
	uint32_t unit = unit_bytes(task->state->chunk_bytes);
	uint32_t first = task->mode == MODE_CUT ? task->state->stored_bytes / unit * unit : 0;
	uint32_t left = task->base->stored_bytes - first;
	uint32_t expected = task->mode == MODE_CUT && left > unit ? unit : left;
	if (task->read.error || task->read.moved != expected)
		task->error = ENGINE_DISK_CRC; /* an unreadable sector is a damaged chunk; `check` judges the disk */
	else
		task->error = task->mode == MODE_CUT ? finish_cut(task) : write_copy(engine, task);
}

void stage_seal(struct task *task)
{
	struct state *state = task->state;
	uint32_t crc = crc32c_fold(state->crcs, unit_bytes(state->chunk_bytes), state->stored_bytes);
	state->crc32c = crc32c_zeros(crc, state->length - state->stored_bytes);
}

static void publish(struct engine *engine, struct task *task)
{
	struct engine_update *update = task->update;
	struct state *state = task->state;
	update->length = state->length;
	update->state_crc32c = state->crc32c;
	if (task->chunk->committed == task->base) {
		state_set(&engine->chunks, &task->chunk->pending, state);
	} else { /* an earlier attempt at this version was committed meanwhile */
		task->error = ENGINE_STALE;
		update->detail = task->chunk->committed ? task->chunk->committed->version : 0;
	}
}

void stage_end(struct engine *engine, struct task *task)
{
	if (task->chunk && task->state && task->chunk->staging == task->state)
		task->chunk->staging = NULL;
	if (task->error && task->mode == MODE_APPEND && !task->writes && task->state && task->state->place)
		task->state->place->high = task->base->stored_bytes; /* the next append may use the block after all */
	if (!task->error)
		publish(engine, task);
	if (task->chunk) {
		task->chunk->pins--;
		chunk_touch(engine, task->chunk);
	}
	task->update->error = task->error;
	state_drop(&engine->chunks, task->state);
	state_drop(&engine->chunks, task->base);
	buffer_free(task->bounce);
}
