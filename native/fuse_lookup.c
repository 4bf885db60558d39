#include "fuse_lookup.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crc32c.h"
#include "fuse_internal.h"

enum {
	HEADER_BYTES = 40, ASK_BYTES = 24, NAME_BYTES_MAX = 255, ANSWER_BYTES = 80,
	KIND_REQUEST = 1, KIND_REPLY = 2, FRAME_VERSION = 1, METHOD = 0x0601,
	FOUND = 0, NO_SUCH_NAME = 1,
	TIMEOUT_MS = 1000,
};
static const char MAGIC[4] = "3FS\x01";

/* As the wire has it; this code is built for little-endian machines only (see CPU in native/builder.py). */
struct header {
	char magic[4];
	uint8_t version, kind;
	uint16_t method;
	uint64_t request_id;
	uint32_t body_bytes, data_bytes, timeout_ms, ticket, body_crc, header_crc;
};
struct ask {
	uint64_t parent;
	uint32_t uid, gid;
	uint16_t name_bytes, zero[3];
};
struct answer {
	uint8_t status, zero[7];
	struct bridge_attr attr;
};
_Static_assert(sizeof(struct header) == HEADER_BYTES, "header of a frame");
_Static_assert(sizeof(struct ask) == ASK_BYTES, "body of a lookup");
_Static_assert(sizeof(struct answer) == ANSWER_BYTES, "body of its reply");

/* The connection of a receiving thread, which serves one bridge in its life. */
static _Thread_local struct {
	int connected; /* `fd` is valid */
	int fd;
	uint32_t generation; /* of the daemon's address */
	uint64_t requests;
} link_;

/* ---- which inodes are open here ---- */

static atomic_uint *open_slot(struct bridge *bridge, uint64_t ino)
{
	return &bridge->open_slots[(ino * 0x9e3779b97f4a7c15u >> 32) % OPEN_SLOTS];
}

void bridge_note_open(struct bridge *bridge, uint64_t ino)
{
	atomic_fetch_add(open_slot(bridge, ino), 1);
}

void bridge_note_closed(struct bridge *bridge, uint64_t ino)
{
	atomic_fetch_sub(open_slot(bridge, ino), 1);
}

/* ---- the daemon ---- */

int bridge_set_meta(struct bridge *bridge, const char *host, const char *port)
{
	struct addrinfo wanted = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *found = NULL;
	if (!host) {
		atomic_store(&bridge->meta_generation, 0);
		return 0;
	}
	if (getaddrinfo(host, port, &wanted, &found) || found->ai_addrlen > sizeof bridge->meta_address)
		return EINVAL;
	pthread_mutex_lock(&bridge->lock);
	memcpy(&bridge->meta_address, found->ai_addr, found->ai_addrlen);
	bridge->meta_address_bytes = found->ai_addrlen;
	bridge->meta_generations += 2; /* odd, so never the 0 that means none */
	atomic_store(&bridge->meta_generation, bridge->meta_generations | 1);
	pthread_mutex_unlock(&bridge->lock);
	freeaddrinfo(found);
	return 0;
}

int bridge_asks_meta(struct bridge *bridge)
{
	return atomic_load(&bridge->meta_generation) != 0;
}

uint64_t bridge_lookups(struct bridge *bridge)
{
	return atomic_load(&bridge->lookups);
}

void bridge_lookup_hang_up(void)
{
	if (link_.connected)
		close(link_.fd);
	link_.connected = 0;
}

/* Nobody asks this daemon any more, until Python names one again. */
static int give_up(struct bridge *bridge, uint32_t generation)
{
	uint_fast32_t expected = generation;
	bridge_lookup_hang_up();
	atomic_compare_exchange_strong(&bridge->meta_generation, &expected, 0);
	return 0;
}

static int hang_on(struct bridge *bridge, uint32_t generation)
{
	struct sockaddr_storage address;
	socklen_t bytes;
	struct timeval limit = { .tv_sec = TIMEOUT_MS / 1000, .tv_usec = TIMEOUT_MS % 1000 * 1000 };
	int yes = 1;
	if (link_.connected && link_.generation == generation)
		return 1;
	bridge_lookup_hang_up();
	pthread_mutex_lock(&bridge->lock);
	memcpy(&address, &bridge->meta_address, sizeof address);
	bytes = bridge->meta_address_bytes;
	pthread_mutex_unlock(&bridge->lock);
	link_.fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (link_.fd < 0)
		return 0;
	link_.connected = 1;
	link_.generation = generation;
	return !setsockopt(link_.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) && /* of connect, too */
	       !setsockopt(link_.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) &&
	       !setsockopt(link_.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) &&
	       !connect(link_.fd, (struct sockaddr *)&address, bytes);
}

/* ---- one request ---- */

static int send_ask(const struct fuse_ctx *context, uint64_t parent, const char *name, size_t name_bytes)
{
	uint8_t frame[HEADER_BYTES + ASK_BYTES + NAME_BYTES_MAX];
	uint32_t body_bytes = (uint32_t)(ASK_BYTES + name_bytes);
	struct ask ask = { .parent = parent, .uid = context->uid, .gid = context->gid,
			   .name_bytes = (uint16_t)name_bytes };
	struct header header = { .version = FRAME_VERSION, .kind = KIND_REQUEST, .method = METHOD,
				 .request_id = ++link_.requests, .body_bytes = body_bytes, .timeout_ms = TIMEOUT_MS };
	memcpy(header.magic, MAGIC, sizeof header.magic);
	memcpy(frame + HEADER_BYTES, &ask, sizeof ask);
	memcpy(frame + HEADER_BYTES + ASK_BYTES, name, name_bytes);
	header.body_crc = crc32c(0, frame + HEADER_BYTES, body_bytes);
	header.header_crc = crc32c(0, &header, HEADER_BYTES - sizeof header.header_crc);
	memcpy(frame, &header, sizeof header);
	ssize_t sent = send(link_.fd, frame, HEADER_BYTES + body_bytes, MSG_NOSIGNAL);
	return sent == (ssize_t)(HEADER_BYTES + body_bytes);
}

/* 0 for anything but the whole answer to the last request: an error's frame is shorter or of another kind. */
static int receive_answer(struct answer *answer)
{
	uint8_t frame[HEADER_BYTES + ANSWER_BYTES];
	struct header header;
	size_t have = 0;
	while (have < sizeof frame) {
		ssize_t got = recv(link_.fd, frame + have, sizeof frame - have, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return 0;
		have += (size_t)got;
		if (have < HEADER_BYTES)
			continue;
		memcpy(&header, frame, sizeof header);
		if (memcmp(header.magic, MAGIC, sizeof header.magic) || header.version != FRAME_VERSION ||
		    header.kind != KIND_REPLY || header.request_id != link_.requests || header.data_bytes ||
		    header.body_bytes != ANSWER_BYTES ||
		    header.header_crc != crc32c(0, frame, HEADER_BYTES - sizeof header.header_crc))
			return 0;
	}
	memcpy(answer, frame + HEADER_BYTES, sizeof *answer);
	return header.body_crc == crc32c(0, frame + HEADER_BYTES, ANSWER_BYTES);
}

int bridge_lookup(fuse_req_t req, uint64_t parent, const char *name)
{
	struct bridge *bridge = fuse_req_userdata(req);
	uint32_t generation = (uint32_t)atomic_load(&bridge->meta_generation);
	size_t name_bytes = strlen(name);
	struct answer answer;
	if (!generation || name_bytes > NAME_BYTES_MAX)
		return 0;
	if (!hang_on(bridge, generation) || !send_ask(fuse_req_ctx(req), parent, name, name_bytes) ||
	    !receive_answer(&answer))
		return give_up(bridge, generation);
	if (answer.status == FOUND && !atomic_load(open_slot(bridge, answer.attr.ino))) {
		struct fuse_entry_param entry;
		bridge_fill_entry(&entry, bridge, &answer.attr);
		fuse_reply_entry(req, &entry);
	} else if (answer.status == NO_SUCH_NAME) {
		struct fuse_entry_param entry = { .entry_timeout = bridge->options.negative_timeout_s };
		if (entry.entry_timeout > 0)
			fuse_reply_entry(req, &entry);
		else
			fuse_reply_err(req, ENOENT);
	} else {
		return 0;
	}
	atomic_fetch_add(&bridge->lookups, 1);
	return 1;
}
