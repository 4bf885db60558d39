#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine_internal.h"

static uint64_t clock_us(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t now_ms(void)
{
	return clock_us(CLOCK_MONOTONIC) / 1000;
}

uint64_t wall_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

void batch_append(struct batch_list *list, struct batch *batch)
{
	batch->next = NULL;
	if (!list->first)
		list->last = &list->first;
	*list->last = batch;
	list->last = &batch->next;
}

void engine_fail(struct engine *engine, const char *what, int status)
{
	if (engine->failed)
		return;
	engine->failed = true;
	const char *why = status > 0 ? strerror(status) : records_message(status);
	snprintf(engine->failure, sizeof engine->failure, "%s: %s", what, why);
}

struct target *target_find(struct engine *engine, uint64_t id)
{
	for (uint32_t i = 0; i < engine->target_count; i++)
		if (engine->targets[i].id == id)
			return &engine->targets[i];
	return NULL;
}

int target_add(struct engine *engine, uint64_t id, bool dropping)
{
	if (engine->target_count == engine->target_room) {
		uint32_t room = engine->target_room ? engine->target_room * 2 : 16;
		struct target *grown = realloc(engine->targets, room * sizeof *grown);
		if (!grown)
			return ENGINE_NO_MEMORY;
		engine->targets = grown;
		engine->target_room = room;
	}
	engine->targets[engine->target_count++] = (struct target){.id = id, .dropping = dropping};
	return 0;
}

void chunk_touch(struct engine *engine, struct chunk *chunk)
{
	chunks_judge(&engine->chunks, chunk);
	if (engine->chunks.dirty_count && !engine->dirty_since_ms) {
		engine->dirty_since_ms = now_ms();
		pthread_cond_signal(&engine->work);
	}
}

static int adopt(struct engine *engine, const struct key *key, struct state *state, struct place_id id,
		 struct chunk **chunk)
{
	if (state && id.class_index != NO_PLACE) {
		if (!blocks_is_stored(&engine->blocks, id)) {
			state_drop(&engine->chunks, state);
			return ENGINE_CORRUPT; /* record and bitmap disagree */
		}
		state->place = place_new(id);
		if (state->place)
			state->place->high = state->stored_bytes;
	}
	*chunk = chunks_add(&engine->chunks, key);
	if (!*chunk || (state && state->stored_bytes && !state->place)) {
		state_drop(&engine->chunks, state);
		return ENGINE_NO_MEMORY;
	}
	(*chunk)->stored_committed = state;
	(*chunk)->committed = state_hold(state);
	return 0;
}

int chunk_get(struct engine *engine, const struct key *key, bool create, struct chunk **chunk)
{
	*chunk = chunks_find(&engine->chunks, key);
	if (*chunk)
		return 0;
	struct state *state;
	struct place_id id;
	int status = records_read_begin(&engine->records);
	if (!status) {
		status = records_load(&engine->records, TABLE_COMMITTED, key, &state, &id);
		records_read_end(&engine->records);
	}
	if (status == ENOMEM)
		return ENGINE_NO_MEMORY;
	if (status)
		return ENGINE_CORRUPT;
	return state || create ? adopt(engine, key, state, id, chunk) : 0;
}

void complete(struct engine *engine, struct batch_list *list)
{
	bool raise = false;
	while (list->first) {
		struct batch *batch = list->first;
		list->first = batch->next;
		if (batch->ticket) {
			batch_append(&engine->done, batch);
			raise = true;
		} else {
			free(batch);
		}
	}
	if (raise)
		eventfd_write(engine->event_fd, 1);
}

uint32_t engine_reap(struct engine *engine, uint64_t *tickets, uint32_t max)
{
	uint32_t count = 0;
	eventfd_t ignored;
	pthread_mutex_lock(&engine->lock);
	while (count < max && engine->done.first) {
		struct batch *batch = engine->done.first;
		engine->done.first = batch->next;
		tickets[count++] = batch->ticket;
		free(batch);
	}
	if (!engine->done.first)
		eventfd_read(engine->event_fd, &ignored);
	pthread_mutex_unlock(&engine->lock);
	return count;
}

static uint64_t enqueue(struct engine *engine, struct batch_list *queue, pthread_cond_t *work, struct batch fields)
{
	struct batch *batch = malloc(sizeof *batch);
	if (!batch)
		return 0;
	*batch = fields;
	pthread_mutex_lock(&engine->lock);
	uint64_t ticket = batch->ticket = ++engine->last_ticket;
	batch_append(queue, batch);
	pthread_cond_signal(work);
	pthread_mutex_unlock(&engine->lock);
	return ticket;
}

uint64_t engine_stage(struct engine *engine, struct engine_update *updates, uint32_t count)
{
	struct batch batch = {.kind = BATCH_STAGE, .count = count, .updates = updates};
	return enqueue(engine, &engine->queue, &engine->work, batch);
}

uint64_t engine_read(struct engine *engine, struct engine_read *reads, uint32_t count)
{
	struct batch batch = {.kind = BATCH_READ, .count = count, .reads = reads};
	return enqueue(engine, &engine->read_queue, &engine->read_work, batch);
}

uint64_t engine_order(struct engine *engine, struct engine_order *order)
{
	struct batch batch = {.kind = BATCH_ORDER, .count = 1, .order = order};
	return enqueue(engine, &engine->queue, &engine->work, batch);
}

int engine_event_fd(const struct engine *engine)
{
	return engine->event_fd;
}

const char *engine_failure(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	const char *text = engine->failed ? engine->failure : "";
	pthread_mutex_unlock(&engine->lock);
	return text;
}

static bool start_threads(struct engine *engine)
{
	engine->writer_runs = !pthread_create(&engine->writer, NULL, writer_main, engine);
	engine->reader_runs = !pthread_create(&engine->reader, NULL, reader_main, engine);
	return engine->writer_runs && engine->reader_runs;
}

static int say(struct engine_report *report, int error, const char *what, const char *why)
{
	report->error = error;
	snprintf(report->message, sizeof report->message, "%s: %s", what, why);
	return error;
}

/* The file `format` says that the first open ended well. Without it nothing was ever promised: what a crash during
 * the first open left of LMDB's file may go. */
static int open_records(struct engine *engine, const char *folder)
{
	bool is_new = faccessat(engine->folder_fd, "format", F_OK, 0) != 0;
	int status = records_open(&engine->records, folder);
	if (!is_new || (status != MDB_INVALID && status != MDB_CORRUPTED && status != MDB_PAGE_NOTFOUND))
		return status;
	records_close(&engine->records);
	unlinkat(engine->folder_fd, "data.mdb", 0);
	return records_open(&engine->records, folder);
}

static int write_format(struct engine *engine)
{
	static const char text[] = "3fs chunk engine, format 2\n";
	int fd = openat(engine->folder_fd, "format", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	int status = pwrite(fd, text, sizeof text - 1, 0) < 0 ? errno : engine->io->sync_data(fd);
	close(fd);
	return status ? status : engine->io->sync_folder(engine->folder_fd);
}

static int open_storage(struct engine *engine, struct engine_report *report)
{
	const char *folder = engine->options.folder;
	engine->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (engine->folder_fd < 0)
		return say(report, ENGINE_DISK_FAILED, folder, strerror(errno));
	int status = blocks_open(&engine->blocks, engine->io, engine->folder_fd);
	if (status)
		return say(report, ENGINE_DISK_FAILED, "block files", strerror(status));
	if (!chunks_open(&engine->chunks, &engine->blocks, engine->options.cache_chunks))
		return say(report, ENGINE_NO_MEMORY, folder, "out of memory");
	status = open_records(engine, folder);
	if (status) {
		int error = status > 0 ? ENGINE_DISK_FAILED : ENGINE_CORRUPT;
		return say(report, error, "chunk records", records_message(status));
	}
	status = engine->io->sync_folder(engine->folder_fd);
	if (status)
		return say(report, ENGINE_DISK_FAILED, folder, strerror(status));
	int error = recover(engine, report);
	if (error)
		return error;
	reserve_take(engine);
	status = write_format(engine);
	return status ? say(report, ENGINE_DISK_FAILED, folder, strerror(status)) : 0;
}

static int open_memory(struct engine *engine, struct engine_report *report)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&engine->lock, NULL);
	pthread_cond_init(&engine->work, &monotonic);
	pthread_cond_init(&engine->read_work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	engine->io = engine->options.flags & ENGINE_PLAIN_IO ? &io_plain : io_table_best();
	report->io = engine->io->name;
	engine->folder_fd = -1;
	engine->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	engine->write_queue = engine->io->queue_open(QUEUE_DEPTH);
	engine->read_queue_io = engine->io->queue_open(QUEUE_DEPTH);
	engine->group.tasks = calloc(GROUP_TASKS_MAX, sizeof(struct task));
	if (engine->event_fd < 0 || !engine->write_queue || !engine->read_queue_io || !engine->group.tasks)
		return say(report, ENGINE_NO_MEMORY, "queues and descriptors", strerror(errno));
	return 0;
}

struct engine *engine_open(const struct engine_options *options, struct engine_report *report)
{
	struct engine *engine = calloc(1, sizeof *engine);
	memset(report, 0, sizeof *report);
	if (!engine) {
		say(report, ENGINE_NO_MEMORY, options->folder, "out of memory");
		return NULL;
	}
	engine->options = *options;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++)
		engine->blocks.classes[i].write_fd = engine->blocks.classes[i].read_fd = -1;
	int error = open_memory(engine, report);
	if (!error)
		error = open_storage(engine, report);
	if (!error && !start_threads(engine))
		error = say(report, ENGINE_NO_MEMORY, "threads", strerror(errno));
	engine->options.folder = NULL; /* the caller's */
	if (error) {
		engine_close(engine);
		return NULL;
	}
	return engine;
}

static void stop_threads(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->stopping = true;
	pthread_cond_broadcast(&engine->work);
	pthread_cond_broadcast(&engine->read_work);
	pthread_mutex_unlock(&engine->lock);
	if (engine->writer_runs)
		pthread_join(engine->writer, NULL);
	if (engine->reader_runs)
		pthread_join(engine->reader, NULL);
}

void engine_close(struct engine *engine)
{
	stop_threads(engine);
	while (engine->done.first) {
		struct batch *batch = engine->done.first;
		engine->done.first = batch->next;
		free(batch);
	}
	chunks_close(&engine->chunks);
	records_close(&engine->records);
	blocks_close(&engine->blocks);
	if (engine->write_queue)
		engine->io->queue_close(engine->write_queue);
	if (engine->read_queue_io)
		engine->io->queue_close(engine->read_queue_io);
	if (engine->event_fd >= 0)
		close(engine->event_fd);
	if (engine->folder_fd >= 0)
		close(engine->folder_fd);
	free(engine->targets);
	free(engine->changes);
	free(engine->finished.items);
	free(engine->finishing.items);
	free(engine->group.tasks);
	pthread_mutex_destroy(&engine->lock);
	pthread_cond_destroy(&engine->work);
	pthread_cond_destroy(&engine->read_work);
	free(engine);
}
