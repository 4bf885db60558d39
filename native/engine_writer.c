/* The writer thread: takes what waits, forms groups, makes them durable, carries out administrative orders. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "buffers.h"
#include "engine_internal.h"

static void fail(struct engine *engine, const char *what, int status)
{
	pthread_mutex_lock(&engine->lock);
	engine_fail(engine, what, status);
	pthread_mutex_unlock(&engine->lock);
}

static void judge_write(struct engine *engine, struct task *task)
{
	if (!task->writes || !task->write.error || task->error == ENGINE_NO_SPACE)
		return;
	if (task->write.error == ENOSPC || task->write.error == EDQUOT) {
		task->error = ENGINE_NO_SPACE;
	} else {
		fail(engine, "writing a block", task->write.error);
		task->error = ENGINE_DISK_FAILED;
	}
}

static void finish_data(struct engine *engine)
{
	struct commit_group *group = &engine->group;
	engine->io->wait(engine->write_queue);
	for (uint32_t i = 0; i < group->count; i++)
		stage_continue(engine, &group->tasks[i]);
	engine->io->wait(engine->write_queue);
	for (uint32_t i = 0; i < group->count; i++)
		judge_write(engine, &group->tasks[i]);
}

static void sync_data(struct engine *engine)
{
	struct io_job jobs[BLOCK_CLASSES];
	uint32_t count = 0;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		if (!engine->group.touched[i])
			continue;
		jobs[count] = (struct io_job){.kind = IO_SYNC, .fd = engine->blocks.classes[i].write_fd};
		engine->io->submit(engine->write_queue, &jobs[count++]);
	}
	engine->io->wait(engine->write_queue);
	for (uint32_t i = 0; i < count; i++)
		if (jobs[i].error)
			fail(engine, "syncing a block file", jobs[i].error);
}

/* Takes failed tasks out of the group's records. A task whose base was replaced while it ran has failed, too. */
static void drop_failed(struct engine *engine, int error)
{
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < engine->group.count; i++) {
		struct task *task = &engine->group.tasks[i];
		if (!task->error && error)
			task->error = error;
		if (!task->error && task->chunk->committed != task->base)
			task->error = ENGINE_STALE;
		if (task->error && task->chunk && task->state && task->chunk->staging == task->state)
			task->chunk->staging = NULL;
	}
	pthread_mutex_unlock(&engine->lock);
}

/* Writes the group's records. On a full disk the reserve makes room for removals and commits, which free space;
 * what would take more is refused. */
static void flush_group(struct engine *engine)
{
	drop_failed(engine, 0);
	int error = flush_records(engine);
	if (!error)
		return;
	if (error != ENGINE_NO_SPACE) {
		drop_failed(engine, error);
		return;
	}
	reserve_release(engine);
	for (uint32_t i = 0; i < engine->group.count; i++)
		if (engine->group.tasks[i].update->kind != ENGINE_REMOVE && !engine->group.tasks[i].error)
			engine->group.tasks[i].error = ENGINE_NO_SPACE;
	drop_failed(engine, 0);
	error = flush_records(engine);
	if (error)
		drop_failed(engine, error);
}

void group_finish(struct engine *engine)
{
	struct commit_group *group = &engine->group;
	if (group->count) {
		finish_data(engine);
		sync_data(engine);
		for (uint32_t i = 0; i < group->count; i++)
			if (!group->tasks[i].error)
				stage_seal(&group->tasks[i]);
	}
	flush_group(engine);
	pthread_mutex_lock(&engine->lock);
	for (uint32_t i = 0; i < group->count; i++)
		stage_end(engine, &group->tasks[i]);
	complete(engine, &group->finished);
	pthread_mutex_unlock(&engine->lock);
	group->count = 0;
	group->bounce_bytes = 0;
	memset(group->touched, 0, sizeof group->touched);
}

static struct key key_of(uint64_t target, const uint8_t *chunk)
{
	struct key key = {.target = target};
	memcpy(key.chunk, chunk, CHUNK_ID_BYTES);
	return key;
}

/* A second update of a chunk waits for the group of the first: order as submitted. */
static void make_way(struct engine *engine, struct key key)
{
	struct commit_group *group = &engine->group;
	pthread_mutex_lock(&engine->lock);
	struct chunk *chunk = chunks_find(&engine->chunks, &key);
	bool busy = chunk && chunk->staging;
	pthread_mutex_unlock(&engine->lock);
	if (busy || group->count == GROUP_TASKS_MAX || group->bounce_bytes >= GROUP_BOUNCE_BYTES)
		group_finish(engine);
}

static void stage(struct engine *engine, struct batch *batch)
{
	for (uint32_t i = 0; i < batch->count; i++) {
		struct engine_update *update = &batch->updates[i];
		make_way(engine, key_of(update->target, update->chunk));
		struct task *task = &engine->group.tasks[engine->group.count++];
		memset(task, 0, sizeof *task);
		task->update = update;
		task->error = stage_begin(engine, task);
		engine->group.bounce_bytes += task->bounce_bytes;
	}
	batch_append(&engine->group.finished, batch);
}

static void abort_pending(struct engine *engine, const struct engine_order *order)
{
	struct key key = key_of(order->target, order->chunk);
	make_way(engine, key);
	pthread_mutex_lock(&engine->lock);
	struct chunk *chunk = chunks_find(&engine->chunks, &key); /* a pending state is always in memory */
	if (chunk && chunk->pending && chunk->pending->version == order->version) {
		state_set(&engine->chunks, &chunk->pending, NULL);
		chunk_touch(engine, chunk);
	}
	pthread_mutex_unlock(&engine->lock);
}

static int put_target(struct engine *engine, uint64_t id, bool dropping, bool gone)
{
	MDB_txn *txn;
	int status = records_write_begin(&engine->records, &txn);
	if (status)
		return status;
	status = gone ? records_delete_target(&engine->records, txn, id)
		      : records_put_target(&engine->records, txn, id, dropping);
	if (status) {
		mdb_txn_abort(txn);
		return status;
	}
	return mdb_txn_commit(txn);
}

static int change_target(struct engine *engine, uint64_t id, bool dropping, bool gone)
{
	int status = put_target(engine, id, dropping, gone);
	if (status == ENOSPC || status == EDQUOT)
		return ENGINE_NO_SPACE;
	if (status)
		fail(engine, "writing target records", status);
	return status ? ENGINE_DISK_FAILED : 0;
}

static int create_target(struct engine *engine, uint64_t id)
{
	pthread_mutex_lock(&engine->lock);
	struct target *found = target_find(engine, id);
	int error = found && found->dropping ? ENGINE_UNFINISHED : 0;
	bool exists = found != NULL;
	pthread_mutex_unlock(&engine->lock);
	if (exists)
		return error;
	error = change_target(engine, id, false, false);
	if (error)
		return error;
	pthread_mutex_lock(&engine->lock);
	error = target_add(engine, id, false);
	pthread_mutex_unlock(&engine->lock);
	return error;
}

/* Forgets up to DROP_STEP of the target's chunks; the next group takes their records and blocks. True if some were
 * found. */
static bool drop_step(struct engine *engine, uint64_t id)
{
	struct key keys[DROP_STEP];
	uint32_t count = 0;
	pthread_mutex_lock(&engine->lock);
	struct chunk *chunk = engine->chunks.recent.recent_next;
	for (; count < DROP_STEP && chunk != &engine->chunks.recent; chunk = chunk->recent_next)
		if (chunk->key.target == id && (chunk->committed || chunk->pending))
			keys[count++] = chunk->key;
	if (!count)
		count = target_keys(engine, id, keys, DROP_STEP);
	for (uint32_t i = 0; i < count; i++) {
		if (chunk_get(engine, &keys[i], true, &chunk))
			continue;
		engine->chunk_count -= chunk->committed != NULL;
		state_set(&engine->chunks, &chunk->committed, NULL);
		state_set(&engine->chunks, &chunk->pending, NULL);
		chunk_touch(engine, chunk);
	}
	pthread_mutex_unlock(&engine->lock);
	return count > 0;
}

/* One step of a removal. True when it is over; until then it goes back to the end of the queue, so that others get
 * their turn. */
static bool drop_target(struct engine *engine, struct engine_order *order)
{
	pthread_mutex_lock(&engine->lock);
	struct target *target = target_find(engine, order->target);
	bool first = target && !target->dropping;
	pthread_mutex_unlock(&engine->lock);
	if (!target)
		return true;
	if (first)
		order->error = change_target(engine, order->target, true, false);
	if (order->error)
		return true;
	pthread_mutex_lock(&engine->lock);
	target_find(engine, order->target)->dropping = true;
	bool stop = engine->stopping || engine->failed;
	pthread_mutex_unlock(&engine->lock);
	if (stop) {
		order->error = ENGINE_UNFINISHED; /* the next open goes on */
		return true;
	}
	if (drop_step(engine, order->target))
		return false;
	order->error = change_target(engine, order->target, true, true);
	pthread_mutex_lock(&engine->lock);
	if (!order->error) {
		target = target_find(engine, order->target);
		*target = engine->targets[--engine->target_count];
	}
	pthread_mutex_unlock(&engine->lock);
	return true;
}

static int probe(struct engine *engine, int fd, uint8_t *sent, uint8_t *back)
{
	struct io_job job = {.kind = IO_WRITE, .fd = fd, .part_count = 1, .parts[0] = {sent, SECTOR}};
	uint64_t stamp = wall_us();
	memset(sent, 0, SECTOR);
	memcpy(sent, &stamp, sizeof stamp);
	engine->io->submit(engine->write_queue, &job);
	engine->io->wait(engine->write_queue);
	int status = job.error ? job.error : engine->io->sync_data(fd);
	if (status)
		return status;
	job = (struct io_job){.kind = IO_READ, .fd = fd, .part_count = 1, .parts[0] = {back, SECTOR}};
	engine->io->submit(engine->write_queue, &job);
	engine->io->wait(engine->write_queue);
	if (job.error || job.moved != SECTOR)
		return job.error ? job.error : EIO;
	return memcmp(sent, back, SECTOR) ? EIO : 0;
}

static int check_disk(struct engine *engine)
{
	uint8_t *buffer = buffer_alloc(2 * SECTOR);
	int fd = openat(engine->folder_fd, "check", O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
	if (fd < 0 && errno == EINVAL)
		fd = openat(engine->folder_fd, "check", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int status = fd < 0 ? errno : buffer ? probe(engine, fd, buffer, buffer + SECTOR) : ENOMEM;
	if (fd >= 0)
		close(fd);
	buffer_free(buffer);
	if (status == ENOSPC || status == EDQUOT) /* full is not broken */
		return 0;
	if (status)
		fail(engine, "checking the disk", status);
	return status ? ENGINE_DISK_FAILED : 0;
}

/* False if the order must come again. */
static bool obey(struct engine *engine, struct engine_order *order)
{
	switch (order->kind) {
	case ENGINE_CREATE_TARGET:
		group_finish(engine);
		order->error = create_target(engine, order->target);
		return true;
	case ENGINE_DROP_TARGET:
		group_finish(engine);
		return drop_target(engine, order);
	case ENGINE_CHECK:
		group_finish(engine);
		order->error = check_disk(engine);
		return true;
	case ENGINE_ABORT:
		abort_pending(engine, order);
		return true;
	default: /* ENGINE_SYNC: every group makes all commits before it durable */
		group_finish(engine);
		return true;
	}
}

static void carry_out(struct engine *engine, struct batch *batch)
{
	if (batch->kind == BATCH_STAGE) {
		stage(engine, batch);
		return;
	}
	bool over = obey(engine, batch->order);
	pthread_mutex_lock(&engine->lock);
	if (engine->failed && !batch->order->error)
		batch->order->error = ENGINE_DISK_FAILED;
	if (!over)
		batch_append(&engine->queue, batch);
	pthread_mutex_unlock(&engine->lock);
	if (over)
		batch_append(&engine->group.finished, batch);
}

static bool flush_is_due(const struct engine *engine)
{
	return engine->dirty_since_ms && now_ms() >= engine->dirty_since_ms + engine->options.flush_delay_ms;
}

/* With the lock: until there is something to do; the queue's batches, and whether this is the end. */
static bool wait_for_work(struct engine *engine, struct batch_list *taken)
{
	while (!engine->queue.first && !engine->stopping && !flush_is_due(engine)) {
		if (!engine->dirty_since_ms || engine->failed) {
			pthread_cond_wait(&engine->work, &engine->lock);
			continue;
		}
		uint64_t due_ms = engine->dirty_since_ms + engine->options.flush_delay_ms;
		struct timespec until = {.tv_sec = (time_t)(due_ms / 1000), .tv_nsec = (long)(due_ms % 1000) * 1000000};
		pthread_cond_timedwait(&engine->work, &engine->lock, &until);
	}
	*taken = engine->queue;
	engine->queue.first = NULL;
	return engine->stopping && !taken->first;
}

void *writer_main(void *argument)
{
	struct engine *engine = argument;
	for (bool last = false; !last;) {
		struct batch_list taken;
		pthread_mutex_lock(&engine->lock);
		last = wait_for_work(engine, &taken);
		if (engine->failed)
			engine->dirty_since_ms = 0;
		pthread_mutex_unlock(&engine->lock);
		if (taken.first && !engine->reserve_held)
			reserve_take(engine);
		while (taken.first) {
			struct batch *batch = taken.first;
			taken.first = batch->next;
			carry_out(engine, batch);
		}
		group_finish(engine);
	}
	return NULL;
}
