/* A stand-in for FoundationDB's client library, NOT FoundationDB: one process, in memory, nothing durable.
 *
 * It implements as much of the C interface as the Python binding calls, so that common/kv/fdb.py runs its real code
 * path where no FoundationDB is installed, and it can be told to fail (`standin_fail`). Futures become ready on the
 * network thread, as the real ones do. Memory is never freed: it
 * serves tests.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { TOO_OLD = 1007, NOT_COMMITTED = 1020, UNKNOWN_RESULT = 1021, NO_CLUSTER_FILE = 1515, UNSUPPORTED = 2108 };
enum { ON_READ = 0, ON_COMMIT = 1, AFTER_COMMIT = 2 };
enum { SET_VERSIONSTAMPED_KEY = 14, BATCH_PAIRS = 64 };

typedef struct {
    uint8_t *data;
    int size;
} bytes;

typedef struct version {
    int64_t number;
    int present;
    bytes value;
    struct version *older;
} version;

typedef struct {
    bytes key;
    version *newest;
} entry;

typedef struct {
    int kind; /* 's' set, 'c' clear [key, end), 'v' set a key that gets the version at `at` */
    bytes key, end;
    int at;
} mutation;

typedef struct {
    bytes begin, end;
} range;

typedef struct {
    int64_t read_version, committed_version;
    mutation *mutations;
    range *reads;
    int mutation_count, read_count;
} transaction;

#pragma pack(push, 4)
typedef struct {
    uint8_t *key;
    int key_size;
    uint8_t *value;
    int value_size;
} pair;
#pragma pack(pop)

typedef void (*callback)(void *future, void *parameter);

typedef struct future {
    int error, ready, present, count, more;
    bytes value;
    pair *pairs;
    int64_t number;
    callback call;
    void *parameter;
    struct future *next;
} future;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static entry *entries;
static int entry_count;
static int64_t now_version = 1000;
static future *queue, *newest; /* oldest first */
static int stopping;
static int fail_code, fail_where, fail_count;

static void *grow(void *array, int count, size_t size) {
    return count & (count - 1) ? array : realloc(array, size * (size_t)(count ? 2 * count : 1));
}

static bytes copy(const uint8_t *data, int size, int extra) {
    bytes made = {calloc(1, (size_t)(size + extra) + 1), size + extra};
    if (size)
        memcpy(made.data, data, (size_t)size);
    return made;
}

static int compare(bytes a, bytes b) {
    int order = memcmp(a.data, b.data, (size_t)(a.size < b.size ? a.size : b.size));
    return order ? order : a.size - b.size;
}

static int first_at_or_after(bytes key) {
    int low = 0, high = entry_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (compare(entries[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void write_version(bytes key, int present, bytes value) {
    int at = first_at_or_after(key);
    if (at == entry_count || compare(entries[at].key, key)) {
        entries = grow(entries, entry_count, sizeof *entries);
        memmove(entries + at + 1, entries + at, sizeof *entries * (size_t)(entry_count - at));
        entries[at] = (entry){key, NULL};
        entry_count++;
    }
    version *made = malloc(sizeof *made);
    *made = (version){now_version, present, value, entries[at].newest};
    entries[at].newest = made;
}

/* Futures */

static future *submit(future *made) { /* with the lock held */
    *(queue ? &newest->next : &queue) = made;
    newest = made;
    pthread_cond_broadcast(&wake);
    return made;
}

static future *result(int error) {
    future *made = calloc(1, sizeof *made);
    made->error = error;
    return made;
}

EXPORT int fdb_run_network(void) {
    pthread_mutex_lock(&lock);
    while (!stopping) {
        future *first = queue;
        if (!first) {
            pthread_cond_wait(&wake, &lock);
            continue;
        }
        queue = first->next;
        first->ready = 1;
        callback call = first->call;
        pthread_mutex_unlock(&lock);
        if (call)
            call(first, first->parameter);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int fdb_stop_network(void) {
    pthread_mutex_lock(&lock);
    stopping = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int fdb_future_set_callback(future *f, callback call, void *parameter) {
    pthread_mutex_lock(&lock);
    int ready = f->ready;
    if (!ready) {
        f->call = call;
        f->parameter = parameter;
    }
    pthread_mutex_unlock(&lock);
    if (ready)
        call(f, parameter);
    return 0;
}

EXPORT int fdb_future_is_ready(future *f) {
    pthread_mutex_lock(&lock);
    int ready = f->ready;
    pthread_mutex_unlock(&lock);
    return ready;
}

EXPORT void fdb_future_destroy(future *f) { (void)f; }
EXPORT int fdb_future_get_error(future *f) { return f->error; }
EXPORT void fdb_future_cancel(future *f) { (void)f; }
EXPORT void fdb_future_release_memory(future *f) { (void)f; }

EXPORT int fdb_future_get_int64(future *f, int64_t *out) {
    *out = f->number;
    return f->error;
}

EXPORT int fdb_future_get_value(future *f, int *present, uint8_t **value, int *size) {
    *present = f->present;
    *value = f->value.data;
    *size = f->value.size;
    return f->error;
}

EXPORT int fdb_future_get_keyvalue_array(future *f, pair **pairs, int *count, int *more) {
    *pairs = f->pairs;
    *count = f->count;
    *more = f->more;
    return f->error;
}

/* Transactions */

static int injected(int where) { /* with the lock held */
    if (fail_count == 0 || fail_where != where)
        return 0;
    fail_count--;
    return fail_code;
}

static void take_snapshot(transaction *t) {
    if (!t->read_version)
        t->read_version = now_version;
}

/* The value that this transaction sees: its own writes, last first, over its snapshot. */
static int visible(transaction *t, int at, bytes key, bytes *value) {
    for (int i = t->mutation_count - 1; i >= 0; i--) {
        mutation *m = &t->mutations[i];
        if (m->kind == 's' && !compare(m->key, key)) {
            *value = m->end;
            return 1;
        }
        if (m->kind == 'c' && compare(m->key, key) <= 0 && compare(key, m->end) < 0)
            return 0;
    }
    if (at >= entry_count || compare(entries[at].key, key))
        return 0;
    for (version *v = entries[at].newest; v; v = v->older)
        if (v->number <= t->read_version) {
            *value = v->value;
            return v->present;
        }
    return 0;
}

static void add_read(transaction *t, bytes begin, bytes end) {
    t->reads = grow(t->reads, t->read_count, sizeof *t->reads);
    t->reads[t->read_count++] = (range){begin, end};
}

static void add_mutation(transaction *t, int kind, bytes key, bytes end, int at) {
    t->mutations = grow(t->mutations, t->mutation_count, sizeof *t->mutations);
    t->mutations[t->mutation_count++] = (mutation){kind, key, end, at};
}

EXPORT future *fdb_transaction_get(transaction *t, const uint8_t *key, int size, int snapshot) {
    pthread_mutex_lock(&lock);
    future *made = result(injected(ON_READ));
    bytes wanted = copy(key, size, 0), found = {0};
    take_snapshot(t);
    made->present = visible(t, first_at_or_after(wanted), wanted, &found);
    made->value = found;
    if (!snapshot)
        add_read(t, wanted, copy(key, size, 1));
    submit(made);
    pthread_mutex_unlock(&lock);
    return made;
}

/* Every key of [begin, end) that the transaction might see, in order: the store's and its own. */
static bytes *candidates(transaction *t, bytes begin, bytes end, int *count) {
    bytes *found = NULL;
    *count = 0;
    for (int at = first_at_or_after(begin); at < entry_count && compare(entries[at].key, end) < 0; at++) {
        found = grow(found, *count, sizeof *found);
        found[(*count)++] = entries[at].key;
    }
    for (int i = 0; i < t->mutation_count; i++) {
        bytes key = t->mutations[i].key;
        if (t->mutations[i].kind != 's' || compare(key, begin) < 0 || compare(key, end) >= 0)
            continue;
        int at = 0;
        while (at < *count && compare(found[at], key) < 0)
            at++;
        if (at < *count && !compare(found[at], key))
            continue;
        found = grow(found, *count, sizeof *found);
        memmove(found + at + 1, found + at, sizeof *found * (size_t)(*count - at));
        found[at] = key;
        (*count)++;
    }
    return found;
}

EXPORT future *fdb_transaction_get_range(transaction *t, const uint8_t *begin, int begin_size, int begin_or_equal,
                                         int begin_offset, const uint8_t *end, int end_size, int end_or_equal,
                                         int end_offset, int limit, int target_bytes, int mode, int iteration,
                                         int snapshot, int reverse) {
    (void)begin_offset, (void)end_offset, (void)target_bytes, (void)mode, (void)iteration;
    pthread_mutex_lock(&lock);
    future *made = result(injected(ON_READ));
    bytes low = copy(begin, begin_size, begin_or_equal != 0), high = copy(end, end_size, end_or_equal != 0);
    take_snapshot(t);
    int count, most = limit && limit < BATCH_PAIRS ? limit : BATCH_PAIRS;
    bytes *keys = candidates(t, low, high, &count);
    for (int i = 0; i < count && !made->more; i++) {
        bytes key = keys[reverse ? count - 1 - i : i], value;
        if (!visible(t, first_at_or_after(key), key, &value))
            continue;
        if (made->count == most) {
            made->more = 1;
            break;
        }
        made->pairs = grow(made->pairs, made->count, sizeof(pair));
        made->pairs[made->count++] = (pair){key.data, key.size, value.data, value.size};
    }
    free(keys);
    if (!snapshot) {
        if (made->count && made->count == most) {
            pair *last = &made->pairs[made->count - 1];
            add_read(t, reverse ? copy(last->key, last->key_size, 0) : low,
                     reverse ? high : copy(last->key, last->key_size, 1));
        } else {
            add_read(t, low, high);
        }
    }
    submit(made);
    pthread_mutex_unlock(&lock);
    return made;
}

EXPORT void fdb_transaction_set(transaction *t, const uint8_t *key, int size, const uint8_t *value, int value_size) {
    add_mutation(t, 's', copy(key, size, 0), copy(value, value_size, 0), 0);
}

EXPORT void fdb_transaction_clear(transaction *t, const uint8_t *key, int size) {
    add_mutation(t, 'c', copy(key, size, 0), copy(key, size, 1), 0);
}

EXPORT void fdb_transaction_clear_range(transaction *t, const uint8_t *begin, int size, const uint8_t *end,
                                        int end_size) {
    add_mutation(t, 'c', copy(begin, size, 0), copy(end, end_size, 0), 0);
}

EXPORT void fdb_transaction_atomic_op(transaction *t, const uint8_t *key, int size, const uint8_t *value,
                                      int value_size, int operation) {
    int32_t at;
    if (operation != SET_VERSIONSTAMPED_KEY)
        abort(); /* nothing else is used */
    memcpy(&at, key + size - 4, 4);
    add_mutation(t, 'v', copy(key, size - 4, 0), copy(value, value_size, 0), at);
}

EXPORT int fdb_transaction_add_conflict_range(transaction *t, const uint8_t *begin, int size, const uint8_t *end,
                                              int end_size, int kind) {
    if (kind == 0)
        add_read(t, copy(begin, size, 0), copy(end, end_size, 0));
    return 0;
}

static int conflicts(transaction *t) {
    for (int i = 0; i < t->read_count; i++)
        for (int at = first_at_or_after(t->reads[i].begin);
             at < entry_count && compare(entries[at].key, t->reads[i].end) < 0; at++)
            if (entries[at].newest->number > t->read_version)
                return 1;
    return 0;
}

static void apply(mutation *m) {
    if (m->kind == 'c') {
        for (int at = first_at_or_after(m->key); at < entry_count && compare(entries[at].key, m->end) < 0; at++)
            write_version(entries[at].key, 0, (bytes){0});
        return;
    }
    if (m->kind == 'v')
        for (int i = 0; i < 10; i++)
            m->key.data[m->at + i] = i < 8 ? (uint8_t)(now_version >> (56 - 8 * i)) : 0;
    write_version(m->key, 1, m->end);
}

EXPORT future *fdb_transaction_commit(transaction *t) {
    pthread_mutex_lock(&lock);
    future *made = result(injected(ON_COMMIT));
    t->committed_version = -1;
    if (!made->error && t->mutation_count) {
        if (t->read_version && conflicts(t)) {
            made->error = NOT_COMMITTED;
        } else {
            now_version += 10;
            for (int i = 0; i < t->mutation_count; i++)
                apply(&t->mutations[i]);
            t->committed_version = now_version;
            made->error = injected(AFTER_COMMIT);
        }
    }
    submit(made);
    pthread_mutex_unlock(&lock);
    return made;
}

EXPORT int fdb_transaction_get_committed_version(transaction *t, int64_t *out) {
    *out = t->committed_version;
    return 0;
}

EXPORT future *fdb_transaction_get_read_version(transaction *t) {
    pthread_mutex_lock(&lock);
    future *made = result(injected(ON_READ));
    take_snapshot(t);
    made->number = t->read_version;
    submit(made);
    pthread_mutex_unlock(&lock);
    return made;
}

EXPORT void fdb_transaction_destroy(transaction *t) { free(t); }
EXPORT void fdb_transaction_cancel(transaction *t) { (void)t; }
EXPORT void fdb_transaction_reset(transaction *t) { *t = (transaction){0}; }
EXPORT int fdb_transaction_set_option(transaction *t, int option, const uint8_t *value, int size) {
    (void)t, (void)option, (void)value, (void)size;
    return 0;
}

/* Databases and the rest */

EXPORT int fdb_select_api_version_impl(int version, int header) {
    (void)version, (void)header;
    return 0;
}
EXPORT int fdb_get_max_api_version(void) { return 800; }
EXPORT int fdb_setup_network(void) { return 0; }
EXPORT int fdb_network_set_option(int option, const uint8_t *value, int size) {
    (void)option, (void)value, (void)size;
    return 0;
}

EXPORT int fdb_create_database(const char *cluster_file, void **database) {
    FILE *file = cluster_file ? fopen(cluster_file, "r") : NULL;
    if (!file)
        return NO_CLUSTER_FILE;
    fclose(file);
    *database = malloc(1);
    return 0;
}

EXPORT void fdb_database_destroy(void *database) { free(database); }
EXPORT int fdb_database_set_option(void *database, int option, const uint8_t *value, int size) {
    (void)database, (void)option, (void)value, (void)size;
    return 0;
}

EXPORT int fdb_database_create_transaction(void *database, transaction **t) {
    (void)database;
    *t = calloc(1, sizeof **t);
    return 0;
}

EXPORT const char *fdb_get_error(int code) {
    static __thread char text[64];
    snprintf(text, sizeof text, "error %d of the stand-in", code);
    return text;
}

EXPORT int fdb_error_predicate(int predicate, int code) {
    int maybe = code == UNKNOWN_RESULT || code == 1039;
    int not_committed = code == TOO_OLD || code == NOT_COMMITTED || code == 1009 || code == 1037 || code == 1213;
    return predicate == 50001 ? maybe : predicate == 50002 ? not_committed : maybe || not_committed;
}

/* The next `count` requests of the kind `where` fail with `code`. */
EXPORT void standin_fail(int code, int where, int count) {
    pthread_mutex_lock(&lock);
    fail_code = code;
    fail_where = where;
    fail_count = count;
    pthread_mutex_unlock(&lock);
}

/* The binding looks these up when it is imported; nothing here calls them. */
#define ABSENT(name) \
    EXPORT int name(void) { return UNSUPPORTED; }
ABSENT(fdb_database_get_client_status)
ABSENT(fdb_database_open_tenant)
ABSENT(fdb_future_block_until_ready)
ABSENT(fdb_future_get_key)
ABSENT(fdb_future_get_key_array)
ABSENT(fdb_future_get_string_array)
ABSENT(fdb_future_get_uint64)
ABSENT(fdb_tenant_create_transaction)
ABSENT(fdb_tenant_destroy)
ABSENT(fdb_tenant_get_id)
ABSENT(fdb_transaction_get_addresses_for_key)
ABSENT(fdb_transaction_get_approximate_size)
ABSENT(fdb_transaction_get_estimated_range_size_bytes)
ABSENT(fdb_transaction_get_key)
ABSENT(fdb_transaction_get_range_split_points)
ABSENT(fdb_transaction_get_range_split_points_with_limit)
ABSENT(fdb_transaction_get_versionstamp)
ABSENT(fdb_transaction_on_error)
ABSENT(fdb_transaction_set_read_version)
ABSENT(fdb_transaction_watch)
