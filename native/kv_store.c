#include "kv_store.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

_Static_assert(KV_MAP_FULL == MDB_MAP_FULL, "lmdb's code changed");
_Static_assert(KV_READERS_FULL == MDB_READERS_FULL, "lmdb's code changed");

struct kv_store {
    MDB_env *env;
    MDB_dbi table;
    int event_fd; /* readable: a commit is done */
    pthread_t committer;
    int committer_runs;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wanted;
    const uint8_t *batch; /* to be committed, or NULL */
    size_t batch_bytes;
    int ending;
    int outcome;
    uint64_t group;
};

struct kv_snapshot {
    MDB_txn *txn;
    MDB_cursor *cursor; /* opened by the first scan */
    MDB_dbi table;
};

static MDB_val slice(const uint8_t *data, size_t bytes) {
    return (MDB_val){.mv_size = bytes, .mv_data = (void *)(uintptr_t)data};
}

/* Bytewise order, as LMDB's own for a table without flags. */
static int compare(const MDB_val *a, const MDB_val *b) {
    size_t shorter = a->mv_size < b->mv_size ? a->mv_size : b->mv_size;
    int order = memcmp(a->mv_data, b->mv_data, shorter);
    return order ? order : (a->mv_size > b->mv_size) - (a->mv_size < b->mv_size);
}

static int open_table(kv_store *store) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &store->table);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* The store's own thread. */
static void *commit_batches(void *argument) {
    kv_store *store = argument;
    const uint64_t one = 1;
    pthread_mutex_lock(&store->lock);
    for (;;) {
        while (!store->batch && !store->ending)
            pthread_cond_wait(&store->wanted, &store->lock);
        if (!store->batch)
            break;
        pthread_mutex_unlock(&store->lock);
        uint64_t group = 0;
        int outcome = kv_commit(store, store->batch, store->batch_bytes, &group);
        pthread_mutex_lock(&store->lock);
        store->batch = NULL;
        store->outcome = outcome;
        store->group = group;
        pthread_mutex_unlock(&store->lock); /* whom the event wakes takes it */
        while (write(store->event_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

static int start_committer(kv_store *store) {
    store->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (store->event_fd < 0)
        return errno;
    int rc = pthread_create(&store->committer, NULL, commit_batches, store);
    store->committer_runs = !rc;
    return rc;
}

static void stop_committer(kv_store *store) {
    pthread_mutex_lock(&store->lock);
    store->ending = 1;
    pthread_cond_signal(&store->wanted);
    pthread_mutex_unlock(&store->lock);
    if (store->committer_runs)
        pthread_join(store->committer, NULL);
    if (store->event_fd >= 0)
        close(store->event_fd);
}

int kv_event_fd(kv_store *store) {
    return store->event_fd;
}

void kv_commit_begin(kv_store *store, const uint8_t *batch, size_t batch_bytes) {
    pthread_mutex_lock(&store->lock);
    store->batch = batch;
    store->batch_bytes = batch_bytes;
    pthread_cond_signal(&store->wanted);
    pthread_mutex_unlock(&store->lock);
}

int kv_commit_end(kv_store *store, uint64_t *group) {
    uint64_t ignored;
    while (read(store->event_fd, &ignored, sizeof ignored) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&store->lock);
    int outcome = store->outcome;
    *group = store->group;
    pthread_mutex_unlock(&store->lock);
    return outcome;
}

int kv_open(const char *folder, uint64_t map_bytes, uint32_t snapshots_max, kv_store **out) {
    kv_store *store = calloc(1, sizeof *store);
    if (!store)
        return ENOMEM;
    store->event_fd = -1;
    pthread_mutex_init(&store->lock, NULL);
    pthread_cond_init(&store->wanted, NULL);
    int rc = mdb_env_create(&store->env);
    if (rc) {
        free(store);
        return rc;
    }
    rc = mdb_env_set_mapsize(store->env, map_bytes);
    if (!rc)
        rc = mdb_env_set_maxreaders(store->env, snapshots_max);
    if (!rc)
        rc = mdb_env_open(store->env, folder, MDB_NOTLS, 0640); /* NOTLS: snapshots belong to no thread */
    if (!rc)
        rc = open_table(store);
    if (!rc)
        rc = start_committer(store);
    if (rc) {
        kv_close(store);
        return rc;
    }
    *out = store;
    return 0;
}

void kv_close(kv_store *store) {
    stop_committer(store);
    pthread_cond_destroy(&store->wanted);
    pthread_mutex_destroy(&store->lock);
    mdb_env_close(store->env);
    free(store);
}

int kv_snapshot_open(kv_store *store, kv_snapshot **out, uint64_t *group) {
    kv_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return ENOMEM;
    int rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &snapshot->txn);
    if (rc) {
        free(snapshot);
        return rc;
    }
    snapshot->table = store->table;
    *group = mdb_txn_id(snapshot->txn);
    *out = snapshot;
    return 0;
}

void kv_snapshot_close(kv_snapshot *snapshot) {
    if (snapshot->cursor)
        mdb_cursor_close(snapshot->cursor);
    mdb_txn_abort(snapshot->txn);
    free(snapshot);
}

int kv_get(kv_snapshot *snapshot, const uint8_t *key, size_t key_bytes, const uint8_t **value, size_t *value_bytes) {
    MDB_val wanted = slice(key, key_bytes), found;
    int rc = mdb_get(snapshot->txn, snapshot->table, &wanted, &found);
    if (rc == MDB_NOTFOUND) {
        *value = NULL;
        return 0;
    }
    if (rc)
        return rc;
    *value = found.mv_data;
    *value_bytes = found.mv_size;
    return 0;
}

/* The first pair of a scan: the smallest key >= begin, or in reverse the greatest key < end. */
static int scan_first(MDB_cursor *cursor, const MDB_val *begin, const MDB_val *end, int reverse, MDB_val *key,
                      MDB_val *value) {
    *key = reverse ? *end : *begin;
    int rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    if (!reverse)
        return rc;
    if (rc == MDB_NOTFOUND) /* every key is below the end */
        return mdb_cursor_get(cursor, key, value, MDB_LAST);
    return rc ? rc : mdb_cursor_get(cursor, key, value, MDB_PREV);
}

static size_t put_pair(uint8_t *out, const MDB_val *key, const MDB_val *value) {
    uint32_t sizes[2] = {(uint32_t)key->mv_size, (uint32_t)value->mv_size};
    memcpy(out, sizes, sizeof sizes);
    memcpy(out + sizeof sizes, key->mv_data, key->mv_size);
    memcpy(out + sizeof sizes + key->mv_size, value->mv_data, value->mv_size);
    return sizeof sizes + key->mv_size + value->mv_size;
}

int kv_scan(kv_snapshot *snapshot, const uint8_t *begin, size_t begin_bytes, const uint8_t *end, size_t end_bytes,
            uint32_t limit, int reverse, uint8_t *out, size_t out_bytes, size_t *used, int *more) {
    MDB_val low = slice(begin, begin_bytes), high = slice(end, end_bytes), key, value;
    *used = 0;
    *more = 0;
    if (!begin_bytes)
        low = slice((const uint8_t *)"\0", 1); /* LMDB has no empty key */
    if (compare(&low, &high) >= 0)
        return 0;
    if (!snapshot->cursor) {
        int rc = mdb_cursor_open(snapshot->txn, snapshot->table, &snapshot->cursor);
        if (rc)
            return rc;
    }
    int rc = scan_first(snapshot->cursor, &low, &high, reverse, &key, &value);
    for (uint32_t count = 0; !rc; count++) {
        if (reverse ? compare(&key, &low) < 0 : compare(&key, &high) >= 0)
            return 0;
        if (limit && count == limit)
            return 0;
        if (8 + key.mv_size + value.mv_size > out_bytes - *used) {
            *more = 1;
            return 0;
        }
        *used += put_pair(out + *used, &key, &value);
        rc = mdb_cursor_get(snapshot->cursor, &key, &value, reverse ? MDB_PREV : MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int clear_range(MDB_txn *txn, MDB_dbi table, const MDB_val *begin, const MDB_val *end) {
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, table, &cursor);
    if (rc)
        return rc;
    MDB_val key = begin->mv_size ? *begin : slice((const uint8_t *)"\0", 1), value;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (!rc && compare(&key, end) < 0) {
        rc = mdb_cursor_del(cursor, 0); /* the cursor then stands before the next pair */
        if (!rc)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int apply(MDB_txn *txn, MDB_dbi table, int kind, MDB_val *key, MDB_val *value) {
    switch (kind) {
    case KV_SET:
        return mdb_put(txn, table, key, value, 0);
    case KV_CLEAR: {
        int rc = mdb_del(txn, table, key, NULL);
        return rc == MDB_NOTFOUND ? 0 : rc;
    }
    case KV_CLEAR_RANGE:
        return clear_range(txn, table, key, value);
    default:
        return EINVAL;
    }
}

static int apply_batch(MDB_txn *txn, MDB_dbi table, const uint8_t *batch, size_t bytes) {
    while (bytes) {
        uint16_t key_bytes;
        uint32_t value_bytes;
        if (bytes < 8)
            return EINVAL;
        memcpy(&key_bytes, batch + 2, sizeof key_bytes);
        memcpy(&value_bytes, batch + 4, sizeof value_bytes);
        size_t whole = 8 + (size_t)key_bytes + value_bytes;
        if (whole > bytes)
            return EINVAL;
        MDB_val key = slice(batch + 8, key_bytes), value = slice(batch + 8 + key_bytes, value_bytes);
        int rc = apply(txn, table, batch[0], &key, &value);
        if (rc)
            return rc;
        batch += whole;
        bytes -= whole;
    }
    return 0;
}

int kv_commit(kv_store *store, const uint8_t *batch, size_t batch_bytes, uint64_t *group) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (rc)
        return rc;
    *group = mdb_txn_id(txn);
    rc = apply_batch(txn, store->table, batch, batch_bytes);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

const char *kv_strerror(int code) {
    return mdb_strerror(code);
}
