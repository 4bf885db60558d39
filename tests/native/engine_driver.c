/* A storm on the chunk engine for the sanitizers: `engine_driver FOLDER SEED ROUNDS` exits 0 if every byte that was
 * read is the one that was written. Threads stage, commit, read, list, abort and drop at the same time; the engine is
 * closed and opened again in between. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffers.h"
#include "crc32c.h"
#include "engine.h"

enum { THREADS = 4, CHUNKS = 8, CHUNK_BYTES = 1 << 18 };

struct worker {
	struct engine *engine;
	uint64_t target;
	unsigned seed;
	int rounds;
	uint64_t versions[CHUNKS];
	uint32_t lengths[CHUNKS];
	uint8_t *contents[CHUNKS]; /* what each chunk must hold */
};

/* The reaper thread turns tickets into flags. */
enum { TICKETS_MAX = 1 << 20 };
static uint8_t finished[TICKETS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int stopping;

static void *reap(void *engine)
{
	struct pollfd watched = {.fd = engine_event_fd(engine), .events = POLLIN};
	uint64_t tickets[16];
	while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE)) {
		poll(&watched, 1, 20);
		uint32_t count = engine_reap(engine, tickets, 16);
		pthread_mutex_lock(&lock);
		for (uint32_t i = 0; i < count; i++)
			finished[tickets[i] % TICKETS_MAX] = 1;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void wait_for(uint64_t ticket)
{
	pthread_mutex_lock(&lock);
	while (!finished[ticket % TICKETS_MAX])
		pthread_cond_wait(&changed, &lock);
	finished[ticket % TICKETS_MAX] = 0;
	pthread_mutex_unlock(&lock);
}

static void require(int truth, const char *what, int64_t value)
{
	if (truth)
		return;
	fprintf(stderr, "engine_driver: %s (%lld)\n", what, (long long)value);
	abort();
}

static unsigned draw(struct worker *worker, unsigned below)
{
	return (unsigned)rand_r(&worker->seed) % below;
}

static void write_chunk(struct worker *worker, uint8_t index)
{
	uint32_t length = worker->lengths[index], bytes = 1 + draw(worker, 40000);
	uint32_t offset = draw(worker, 2) ? length : draw(worker, length + 1);
	if (offset + bytes > CHUNK_BYTES)
		offset = CHUNK_BYTES - bytes;
	uint32_t shift = draw(worker, 2) * 7; /* aligned or not */
	uint8_t *data = (uint8_t *)buffer_alloc(bytes + shift) + shift;
	for (uint32_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)draw(worker, 256);
	struct engine_update update = {.target = worker->target, .version = worker->versions[index] + 1,
				       .chain_version = 1, .data = data, .offset = offset, .bytes = bytes,
				       .chunk_bytes = CHUNK_BYTES, .kind = ENGINE_WRITE, .has_crc = 1};
	update.chunk[15] = index;
	update.crc32c = crc32c(0, data, bytes);
	wait_for(engine_stage(worker->engine, &update, 1));
	require(!update.error, "stage failed", update.error);
	if (draw(worker, 5)) {
		struct engine_commit commit = {.target = worker->target, .version = update.version, .chain_version = 1};
		commit.chunk[15] = index;
		engine_commit(worker->engine, &commit, 1);
		require(!commit.error, "commit failed", commit.error);
		memcpy(worker->contents[index] + offset, data, bytes);
		worker->versions[index]++;
		worker->lengths[index] = update.length;
	} else if (draw(worker, 2)) {
		struct engine_order order = {.kind = ENGINE_ABORT, .target = worker->target, .version = update.version};
		order.chunk[15] = index;
		wait_for(engine_order(worker->engine, &order));
	}
	buffer_free(data - shift);
}

/* Updates that must be refused and leave nothing behind. */
static void write_wrongly(struct worker *worker, uint8_t index)
{
	static const uint8_t data[100];
	struct engine_update updates[3];
	for (int i = 0; i < 3; i++) {
		updates[i] = (struct engine_update){.target = worker->target, .version = worker->versions[index],
						    .chain_version = 1, .data = data, .bytes = sizeof data,
						    .chunk_bytes = CHUNK_BYTES, .kind = ENGINE_WRITE};
		updates[i].chunk[15] = index;
	}
	updates[1].version += 2;
	updates[2].version += 1;
	updates[2].has_crc = 1;
	updates[2].crc32c = 1;
	wait_for(engine_stage(worker->engine, updates, 3));
	require(updates[0].error == ENGINE_STALE, "a stale update was taken", updates[0].error);
	require(updates[1].error == ENGINE_MISSING, "an update that leaves a gap was taken", updates[1].error);
	require(updates[2].error == ENGINE_DATA_CRC, "damaged data was taken", updates[2].error);
}

static void read_chunk(struct worker *worker, uint8_t index)
{
	uint32_t offset = draw(worker, CHUNK_BYTES), bytes = 1 + draw(worker, 70000);
	uint8_t *space = malloc(bytes);
	struct engine_read read = {.target = worker->target, .buffer = space, .offset = offset, .bytes = bytes,
				   .error = ENGINE_UNFINISHED, .flags = draw(worker, 4) ? 0 : ENGINE_READ_DISK};
	read.chunk[15] = index;
	if (draw(worker, 2) || engine_read_now(worker->engine, &read, 1))
		wait_for(engine_read(worker->engine, &read, 1));
	require(!read.error, "read failed", read.error);
	uint32_t length = worker->lengths[index], there = offset < length ? length - offset : 0;
	require(read.length == (there < bytes ? there : bytes), "read is too short or too long", read.length);
	require(!memcmp(space, worker->contents[index] + offset, read.length), "read other bytes than were written", index);
	require(read.crc32c == crc32c(0, space, read.length), "read gave a wrong CRC", index);
	free(space);
}

static void list_chunks(struct worker *worker)
{
	uint8_t begin[16] = {0}, end[16];
	struct engine_meta metas[CHUNKS + 1];
	memset(end, 0xff, sizeof end);
	int64_t count = engine_list(worker->engine, worker->target, begin, end, CHUNKS + 1, (int)draw(worker, 2), metas);
	require(count >= 0 && count <= CHUNKS, "list gave a wrong count", count);
	struct engine_order order = {.kind = draw(worker, 2) ? ENGINE_SYNC : ENGINE_CHECK};
	wait_for(engine_order(worker->engine, &order));
	require(!order.error, "sync or check failed", order.error);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct engine_order create = {.kind = ENGINE_CREATE_TARGET, .target = worker->target};
	wait_for(engine_order(worker->engine, &create));
	require(!create.error, "create_target failed", create.error);
	for (int round = 0; round < worker->rounds; round++) {
		uint8_t index = (uint8_t)draw(worker, CHUNKS);
		unsigned what = draw(worker, 40);
		if (what < 16)
			write_chunk(worker, index);
		else if (what < 20)
			write_wrongly(worker, index);
		else if (what < 38)
			read_chunk(worker, index);
		else
			list_chunks(worker);
	}
	struct engine_order drop = {.kind = ENGINE_DROP_TARGET, .target = 1000 + worker->target};
	wait_for(engine_order(worker->engine, &drop));
	return NULL;
}

static struct engine *open_engine(const char *folder, uint32_t flags)
{
	struct engine_options options = {.folder = folder, .use_permille_max = 980, .flush_delay_ms = 3,
					 .cache_chunks = 4, .flags = flags};
	struct engine_report report;
	struct engine *engine = engine_open(&options, &report);
	if (!engine)
		fprintf(stderr, "%s\n", report.message);
	require(engine != NULL, "open failed", report.error);
	return engine;
}

static void run_life(struct worker *workers, const char *folder, uint32_t flags)
{
	pthread_t threads[THREADS], reaper;
	struct engine *engine = open_engine(folder, flags);
	char message[256];
	__atomic_store_n(&stopping, 0, __ATOMIC_RELEASE);
	memset(finished, 0, sizeof finished);
	pthread_create(&reaper, NULL, reap, engine);
	for (int i = 0; i < THREADS; i++) {
		workers[i].engine = engine;
		pthread_create(&threads[i], NULL, work, &workers[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&stopping, 1, __ATOMIC_RELEASE);
	pthread_join(reaper, NULL);
	uint64_t findings = engine_audit(engine, message, sizeof message);
	require(findings == 0, message, (int64_t)findings);
	engine_close(engine);
}

int main(int count, char **arguments)
{
	static struct worker workers[THREADS];
	require(count == 4, "usage: engine_driver FOLDER SEED ROUNDS", count);
	for (int i = 0; i < THREADS; i++) {
		workers[i].target = (uint64_t)i + 1;
		workers[i].seed = (unsigned)atoi(arguments[2]) * 31 + (unsigned)i;
		workers[i].rounds = atoi(arguments[3]);
		for (int c = 0; c < CHUNKS; c++)
			workers[i].contents[c] = calloc(1, CHUNK_BYTES * 2);
	}
	for (uint32_t life = 0; life < 3; life++)
		run_life(workers, arguments[1], life == 1 ? ENGINE_PLAIN_IO : 0);
	for (int i = 0; i < THREADS; i++)
		for (int c = 0; c < CHUNKS; c++)
			free(workers[i].contents[c]);
	buffer_set_idle_max(0);
	return 0;
}
