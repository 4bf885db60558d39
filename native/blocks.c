#include "blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_direct(int folder_fd, const char *name)
{
	int fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
	if (fd < 0 && errno == EINVAL) /* tmpfs before Linux 6.6, some network file systems */
		fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd;
}

/* Alignment that O_DIRECT asks of memory; SECTOR if the kernel does not say. */
static uint32_t memory_align(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx found;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 && (found.stx_mask & STATX_DIOALIGN) &&
	    found.stx_dio_mem_align && found.stx_dio_offset_align <= SECTOR)
		return found.stx_dio_mem_align;
#endif
	return SECTOR;
}

static int open_class(struct blocks *blocks, uint32_t index)
{
	struct block_class *class = &blocks->classes[index];
	char name[32];
	class->shift = BLOCK_SHIFT_MIN + index;
	uint64_t fitting = GROUP_BYTES >> class->shift;
	class->group_blocks = fitting > GROUP_BLOCKS_MAX ? GROUP_BLOCKS_MAX : (uint32_t)fitting;
	snprintf(name, sizeof name, "blocks-%uk", 1u << (class->shift - 10));
	class->write_fd = open_direct(blocks->folder_fd, name);
	if (class->write_fd < 0)
		return errno;
	class->read_fd = openat(blocks->folder_fd, name, O_RDONLY | O_CLOEXEC);
	if (class->read_fd < 0)
		return errno;
	blocks->memory_align = memory_align(class->write_fd);
	return 0;
}

int blocks_open(struct blocks *blocks, const struct io_table *io, int folder_fd)
{
	memset(blocks, 0, sizeof *blocks);
	blocks->io = io;
	blocks->folder_fd = folder_fd;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++)
		blocks->classes[i].write_fd = blocks->classes[i].read_fd = -1;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		int status = open_class(blocks, i);
		if (status)
			return status;
	}
	return io->sync_folder(folder_fd);
}

void blocks_close(struct blocks *blocks)
{
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		struct block_class *class = &blocks->classes[i];
		if (class->write_fd >= 0)
			close(class->write_fd);
		if (class->read_fd >= 0)
			close(class->read_fd);
		free(class->groups);
	}
}

uint32_t blocks_class_for(uint64_t bytes)
{
	uint32_t index = 0;
	while (index + 1 < BLOCK_CLASSES && blocks_bytes(index) < bytes)
		index++;
	return index;
}

uint64_t blocks_bytes(uint32_t class_index)
{
	return 1ull << (BLOCK_SHIFT_MIN + class_index);
}

uint64_t blocks_group_bytes(const struct block_class *class)
{
	return (uint64_t)class->group_blocks << class->shift;
}

uint64_t blocks_offset(struct place_id place)
{
	return place.block << (BLOCK_SHIFT_MIN + place.class_index);
}

static struct group *group_of(const struct blocks *blocks, struct place_id place, uint64_t *word, uint64_t *bit)
{
	const struct block_class *class = &blocks->classes[place.class_index];
	uint64_t within = place.block % class->group_blocks;
	*word = within / 64;
	*bit = 1ull << (within % 64);
	return &class->groups[place.block / class->group_blocks];
}

static bool take_from(struct block_class *class, uint64_t index, uint64_t *block)
{
	struct group *group = &class->groups[index];
	if (group->hollow)
		return false;
	for (uint32_t word = 0; word * 64 < class->group_blocks; word++) {
		uint64_t room = ~group->live[word];
		if (!room)
			continue;
		uint32_t within = word * 64 + (uint32_t)__builtin_ctzll(room);
		if (within >= class->group_blocks)
			return false;
		group->live[word] |= room & -room;
		group->live_count++;
		class->live_blocks++;
		*block = index * class->group_blocks + within;
		return true;
	}
	return false;
}

bool blocks_take(struct blocks *blocks, uint32_t class_index, struct place_id *place)
{
	struct block_class *class = &blocks->classes[class_index];
	for (; class->first_free < class->group_count; class->first_free++) {
		place->class_index = class_index;
		if (take_from(class, class->first_free, &place->block))
			return true;
	}
	return false;
}

uint64_t blocks_next_group(const struct blocks *blocks, uint32_t class_index)
{
	const struct block_class *class = &blocks->classes[class_index];
	uint64_t index = 0;
	while (index < class->group_count && !class->groups[index].hollow)
		index++;
	return index;
}

int blocks_allocate_group(struct blocks *blocks, uint32_t class_index, uint64_t index)
{
	struct block_class *class = &blocks->classes[class_index];
	uint64_t bytes = blocks_group_bytes(class);
	return blocks->io->allocate(class->write_fd, index * bytes, bytes);
}

static bool make_room(struct block_class *class, uint64_t count)
{
	if (count <= class->group_room)
		return true;
	uint64_t room = class->group_room ? class->group_room * 2 : 16;
	while (room < count)
		room *= 2;
	struct group *grown = realloc(class->groups, room * sizeof *grown);
	if (!grown)
		return false;
	memset(grown + class->group_room, 0, (room - class->group_room) * sizeof *grown);
	class->groups = grown;
	class->group_room = room;
	return true;
}

bool blocks_add_group(struct blocks *blocks, uint32_t class_index, uint64_t index)
{
	struct block_class *class = &blocks->classes[class_index];
	if (index < class->group_count) {
		class->groups[index].hollow = false;
		if (index < class->first_free)
			class->first_free = index;
		return true;
	}
	if (!make_room(class, index + 1))
		return false;
	class->group_count = index + 1;
	return true;
}

static bool is_empty(const struct group *group)
{
	uint64_t any = group->live_count;
	for (unsigned word = 0; word < GROUP_WORDS; word++)
		any |= group->stored[word];
	return !any;
}

uint64_t blocks_release_empty(struct blocks *blocks)
{
	uint64_t released = 0;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		struct block_class *class = &blocks->classes[i];
		uint64_t bytes = blocks_group_bytes(class);
		for (uint64_t index = 0; index < class->group_count; index++) {
			struct group *group = &class->groups[index];
			if (group->hollow || !is_empty(group))
				continue;
			if (blocks->io->release(class->write_fd, index * bytes, bytes))
				continue;
			group->hollow = true;
			released += bytes;
		}
	}
	return released;
}

void blocks_give_back(struct blocks *blocks, struct place_id place)
{
	struct block_class *class = &blocks->classes[place.class_index];
	uint64_t word, bit, index = place.block / class->group_blocks;
	struct group *group = group_of(blocks, place, &word, &bit);
	group->live[word] &= ~bit;
	group->live_count--;
	class->live_blocks--;
	if (index < class->first_free)
		class->first_free = index;
}

int blocks_restore_rest(struct blocks *blocks)
{
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		struct block_class *class = &blocks->classes[i];
		struct stat found;
		if (fstat(class->write_fd, &found))
			return errno;
		uint64_t count = (uint64_t)found.st_size / blocks_group_bytes(class);
		if (!make_room(class, count))
			return ENOMEM;
		if (class->group_count < count)
			class->group_count = count;
	}
	blocks_release_empty(blocks);
	return 0;
}

int blocks_restore(struct blocks *blocks, uint32_t class_index, uint64_t index, const uint64_t stored[GROUP_WORDS])
{
	struct block_class *class = &blocks->classes[class_index];
	struct stat found;
	if (fstat(class->write_fd, &found))
		return errno;
	if ((uint64_t)found.st_size < (index + 1) * blocks_group_bytes(class))
		return ENODATA; /* the records name blocks beyond the end of the file */
	if (!make_room(class, index + 1))
		return ENOMEM;
	if (class->group_count < index + 1)
		class->group_count = index + 1;
	struct group *group = &class->groups[index];
	for (unsigned word = 0; word < GROUP_WORDS; word++) {
		group->stored[word] = group->live[word] = stored[word];
		group->live_count += (uint32_t)__builtin_popcountll(stored[word]);
	}
	class->live_blocks += group->live_count;
	return 0;
}

void blocks_set_stored(struct blocks *blocks, struct place_id place, bool stored)
{
	uint64_t word, bit;
	struct group *group = group_of(blocks, place, &word, &bit);
	if (stored)
		group->stored[word] |= bit;
	else
		group->stored[word] &= ~bit;
	group->changed = true;
}

bool blocks_is_stored(const struct blocks *blocks, struct place_id place)
{
	const struct block_class *class = &blocks->classes[place.class_index];
	if (place.block / class->group_blocks >= class->group_count)
		return false;
	uint64_t word, bit;
	struct group *group = group_of(blocks, place, &word, &bit);
	return (group->stored[word] & bit) != 0;
}

void blocks_count(const struct blocks *blocks, uint64_t *live, uint64_t *idle)
{
	*live = *idle = 0;
	for (uint32_t i = 0; i < BLOCK_CLASSES; i++) {
		const struct block_class *class = &blocks->classes[i];
		*live += class->live_blocks << class->shift;
		for (uint64_t index = 0; index < class->group_count; index++)
			if (!class->groups[index].hollow)
				*idle += (uint64_t)(class->group_blocks - class->groups[index].live_count) << class->shift;
	}
}
