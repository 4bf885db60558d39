#include "buffers.h"

#include <pthread.h>
#include <stdlib.h>

enum { HEADER_BYTES = 4096, CLASS_MIN_SHIFT = 12, CLASS_MAX_SHIFT = 27, CLASS_COUNT = 16 };

/* Sits in the page before the buffer, so that the buffer itself stays aligned. */
struct header {
	struct header *next;
	size_t class_index; /* CLASS_COUNT: too large to be pooled */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct header *free_lists[CLASS_COUNT];
static size_t idle_bytes;
static size_t idle_max = 128u << 20;

static size_t class_of(size_t bytes)
{
	size_t shift = CLASS_MIN_SHIFT;
	while (shift <= CLASS_MAX_SHIFT && ((size_t)1 << shift) < bytes)
		shift++;
	return shift - CLASS_MIN_SHIFT;
}

static size_t class_bytes(size_t class_index)
{
	return (size_t)1 << (class_index + CLASS_MIN_SHIFT);
}

void *buffer_alloc(size_t bytes)
{
	size_t index = class_of(bytes);
	struct header *found = NULL;
	if (index < CLASS_COUNT) {
		pthread_mutex_lock(&lock);
		found = free_lists[index];
		if (found) {
			free_lists[index] = found->next;
			idle_bytes -= class_bytes(index);
		}
		pthread_mutex_unlock(&lock);
		bytes = class_bytes(index);
	}
	if (!found) {
		void *raw;
		if (posix_memalign(&raw, HEADER_BYTES, bytes + HEADER_BYTES))
			return NULL;
		found = raw;
		found->class_index = index;
	}
	return (char *)found + HEADER_BYTES;
}

void buffer_free(void *buffer)
{
	if (!buffer)
		return;
	struct header *freed = (void *)((char *)buffer - HEADER_BYTES);
	size_t index = freed->class_index;
	if (index < CLASS_COUNT) {
		pthread_mutex_lock(&lock);
		if (idle_bytes + class_bytes(index) <= idle_max) {
			freed->next = free_lists[index];
			free_lists[index] = freed;
			idle_bytes += class_bytes(index);
			freed = NULL;
		}
		pthread_mutex_unlock(&lock);
	}
	free(freed);
}

size_t buffer_idle_bytes(void)
{
	pthread_mutex_lock(&lock);
	size_t bytes = idle_bytes;
	pthread_mutex_unlock(&lock);
	return bytes;
}

void buffer_set_idle_max(size_t bytes)
{
	pthread_mutex_lock(&lock);
	idle_max = bytes;
	pthread_mutex_unlock(&lock);
}
