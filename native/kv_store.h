/* The transactional store of one process, over LMDB: snapshots, scans, and one commit for a whole group.
 *
 * Python (common/kv/embedded.py) decides what commits; here a batch of writes becomes one LMDB transaction without
 * the GIL. (With a Python call per put, a busy interpreter takes back the GIL each time: 37 commits/s of ten puts
 * instead of 4,700, measured.) Every function returns 0, an errno, or a negative LMDB code.
 */
#ifndef THREEFS_KV_STORE_H
#define THREEFS_KV_STORE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
typedef struct kv_store kv_store;
typedef struct kv_snapshot kv_snapshot;

/* Operations of a batch: a header of 8 bytes (u8 kind, u8 zero, u16 key bytes, u32 value bytes; little-endian),
 * then the key, then the value (of CLEAR_RANGE: the end of the range). */
#define KV_SET 1
#define KV_CLEAR 2
#define KV_CLEAR_RANGE 3

#define KV_MAP_FULL -30792
#define KV_READERS_FULL -30790

int kv_open(const char *folder, uint64_t map_bytes, uint32_t snapshots_max, kv_store **store);
void kv_close(kv_store *store); /* no snapshot may be open; waits for a commit that runs */

int kv_snapshot_open(kv_store *store, kv_snapshot **snapshot, uint64_t *group);
void kv_snapshot_close(kv_snapshot *snapshot);

/* *value stays valid until the snapshot is closed; NULL if there is no such key. */
int kv_get(kv_snapshot *snapshot, const uint8_t *key, size_t key_bytes, const uint8_t **value, size_t *value_bytes);

/* Pairs of [begin, end) as u32 key bytes, u32 value bytes, key, value. Stops at `limit` pairs (0: none) or when the
 * next pair does not fit; *more says that there is a next one. With `reverse` from the end. */
int kv_scan(kv_snapshot *snapshot, const uint8_t *begin, size_t begin_bytes, const uint8_t *end, size_t end_bytes,
            uint32_t limit, int reverse, uint8_t *out, size_t out_bytes, size_t *used, int *more);

/* Applies the batch in one transaction and syncs it. *group is the number that snapshots opened later are at.
 * After an error nothing of it took effect, except that EIO leaves it open. */
int kv_commit(kv_store *store, const uint8_t *batch, size_t batch_bytes, uint64_t *group);

/* The same on a thread of the store, so that neither the caller nor the GIL is in its way: `kv_event_fd` becomes readable
 * when it is done, then `kv_commit_end` returns what `kv_commit` would have. One at a time; the batch must stay. */
int kv_event_fd(kv_store *store);
void kv_commit_begin(kv_store *store, const uint8_t *batch, size_t batch_bytes);
int kv_commit_end(kv_store *store, uint64_t *group);

const char *kv_strerror(int code);
/* cffi:end */

#endif
