#include "records.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"

enum { RAW_KEY_BYTES = 24, FINISHED_KEY_BYTES = 28, RECORD_BYTES_MAX = (int)sizeof(struct record) + UNITS_MAX * 4 };

static const char *const table_names[TABLE_COUNT] = {"committed", "pending", "groups", "targets", "finished",
					       "info"};

static void encode_key(const struct key *key, uint8_t raw[RAW_KEY_BYTES])
{
	uint64_t target = htobe64(key->target);
	memcpy(raw, &target, 8);
	memcpy(raw + 8, key->chunk, CHUNK_ID_BYTES);
}

static void decode_key(const uint8_t raw[RAW_KEY_BYTES], struct key *key)
{
	memcpy(&key->target, raw, 8);
	key->target = be64toh(key->target);
	memcpy(key->chunk, raw + 8, CHUNK_ID_BYTES);
}

int records_decode_key(const MDB_val *raw_key, struct key *key)
{
	if (raw_key->mv_size != RAW_KEY_BYTES)
		return STATUS_CORRUPT;
	decode_key(raw_key->mv_data, key);
	return 0;
}

static int check_format(struct records *records, MDB_txn *txn)
{
	uint32_t format = htole32(RECORDS_FORMAT), found;
	MDB_val key = {6, "format"}, value = {sizeof format, &format};
	int status = mdb_put(txn, records->tables[TABLE_INFO], &key, &value, MDB_NOOVERWRITE);
	if (status != MDB_KEYEXIST)
		return status;
	if (value.mv_size != sizeof found)
		return STATUS_CORRUPT;
	memcpy(&found, value.mv_data, sizeof found);
	return found == format ? 0 : STATUS_FORMAT;
}

static int open_tables(struct records *records)
{
	MDB_txn *txn;
	int status = mdb_txn_begin(records->env, NULL, 0, &txn);
	if (status)
		return status;
	for (int i = 0; !status && i < TABLE_COUNT; i++)
		status = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &records->tables[i]);
	if (!status)
		status = check_format(records, txn);
	if (status) {
		mdb_txn_abort(txn);
		return status;
	}
	return mdb_txn_commit(txn);
}

int records_open(struct records *records, const char *folder)
{
	memset(records, 0, sizeof *records);
	int status = mdb_env_create(&records->env);
	if (!status)
		status = mdb_env_set_maxdbs(records->env, TABLE_COUNT);
	if (!status) /* address space only: the file grows as records come */
		status = mdb_env_set_mapsize(records->env, (size_t)1 << 38);
	if (!status)
		status = mdb_env_open(records->env, folder, MDB_NOTLS | MDB_NORDAHEAD, 0600);
	if (!status)
		status = open_tables(records);
	if (!status)
		status = mdb_txn_begin(records->env, NULL, MDB_RDONLY, &records->reader);
	if (!status)
		mdb_txn_reset(records->reader);
	return status;
}

void records_close(struct records *records)
{
	if (records->reader)
		mdb_txn_abort(records->reader);
	if (records->env)
		mdb_env_close(records->env);
}

const char *records_message(int status)
{
	if (status == STATUS_FORMAT)
		return "another release wrote them in another format";
	return status == STATUS_CORRUPT ? "a record does not parse or its checksum differs" : mdb_strerror(status);
}

int records_read_begin(struct records *records)
{
	return mdb_txn_renew(records->reader);
}

void records_read_end(struct records *records)
{
	mdb_txn_reset(records->reader);
}

static uint32_t record_crc(const void *raw_key, struct record head, const void *units, size_t unit_bytes_all)
{
	head.record_crc = 0;
	uint32_t crc = crc32c(0, raw_key, RAW_KEY_BYTES);
	crc = crc32c(crc, &head, sizeof head);
	return crc32c(crc, units, unit_bytes_all);
}

static bool is_sane(const struct record *head, size_t bytes)
{
	bool power = head->chunk_bytes && !(head->chunk_bytes & (head->chunk_bytes - 1));
	if (!power || head->stored_bytes > head->length || head->length > head->chunk_bytes)
		return false;
	if ((head->class_index == NO_PLACE) != (head->stored_bytes == 0))
		return false;
	if (head->class_index != NO_PLACE &&
	    (head->class_index >= BLOCK_CLASSES || head->stored_bytes > blocks_bytes(head->class_index)))
		return false;
	uint32_t unit = unit_bytes(head->chunk_bytes);
	return bytes == sizeof *head + (head->stored_bytes + unit - 1) / unit * sizeof(uint32_t);
}

int records_decode(const MDB_val *raw_key, const MDB_val *raw, struct key *key, struct state **state,
		   struct place_id *id)
{
	struct record head;
	*state = NULL;
	if (raw_key->mv_size != RAW_KEY_BYTES || raw->mv_size < sizeof head || raw->mv_size > RECORD_BYTES_MAX)
		return STATUS_CORRUPT;
	memcpy(&head, raw->mv_data, sizeof head);
	const uint8_t *units = (const uint8_t *)raw->mv_data + sizeof head;
	size_t units_bytes = raw->mv_size - sizeof head;
	if (record_crc(raw_key->mv_data, head, units, units_bytes) != head.record_crc || !is_sane(&head, raw->mv_size))
		return STATUS_CORRUPT;
	struct state *loaded = state_new(head.chunk_bytes, head.stored_bytes);
	if (!loaded)
		return ENOMEM;
	decode_key(raw_key->mv_data, key);
	loaded->flags = head.flags;
	loaded->version = head.version;
	loaded->chain_version = head.chain_version;
	loaded->modified_us = head.modified_us;
	loaded->length = head.length;
	loaded->crc32c = head.crc32c;
	loaded->ticket.sequence = head.sequence;
	loaded->ticket.channel = head.channel;
	memcpy(loaded->ticket.client, head.client, sizeof head.client);
	memcpy(loaded->crcs, units, units_bytes);
	id->class_index = head.class_index;
	id->block = head.block;
	*state = loaded;
	return 0;
}

int records_load(struct records *records, enum record_table table, const struct key *key, struct state **state,
		 struct place_id *id)
{
	uint8_t raw[RAW_KEY_BYTES];
	struct key again;
	encode_key(key, raw);
	MDB_val raw_key = {sizeof raw, raw}, value;
	*state = NULL;
	int status = mdb_get(records->reader, records->tables[table], &raw_key, &value);
	if (status)
		return status == MDB_NOTFOUND ? 0 : status;
	return records_decode(&raw_key, &value, &again, state, id);
}

int records_seek(MDB_cursor *cursor, const struct key *begin, bool reverse, bool next, MDB_val *raw_key, MDB_val *raw)
{
	if (next)
		return mdb_cursor_get(cursor, raw_key, raw, reverse ? MDB_PREV : MDB_NEXT);
	uint8_t wanted[RAW_KEY_BYTES];
	encode_key(begin, wanted);
	raw_key->mv_size = sizeof wanted;
	raw_key->mv_data = wanted;
	int status = mdb_cursor_get(cursor, raw_key, raw, MDB_SET_RANGE);
	if (!reverse)
		return status;
	if (status == MDB_NOTFOUND)
		return mdb_cursor_get(cursor, raw_key, raw, MDB_LAST);
	if (!status && memcmp(raw_key->mv_data, wanted, sizeof wanted) > 0)
		status = mdb_cursor_get(cursor, raw_key, raw, MDB_PREV);
	return status;
}

int records_write_begin(struct records *records, MDB_txn **txn)
{
	return mdb_txn_begin(records->env, NULL, 0, txn);
}

int records_put(struct records *records, MDB_txn *txn, enum record_table table, const struct key *key,
		const struct state *state)
{
	uint8_t raw[RAW_KEY_BYTES];
	size_t units = unit_count(state) * sizeof(uint32_t);
	struct record head = {
		.version = state->version,
		.chain_version = state->chain_version,
		.modified_us = state->modified_us,
		.block = state->place ? state->place->id.block : 0,
		.class_index = state->place ? state->place->id.class_index : NO_PLACE,
		.length = state->length,
		.stored_bytes = state->stored_bytes,
		.crc32c = state->crc32c,
		.chunk_bytes = state->chunk_bytes,
		.flags = state->flags,
		.channel = state->ticket.channel,
		.sequence = state->ticket.sequence,
	};
	memcpy(head.client, state->ticket.client, sizeof head.client);
	encode_key(key, raw);
	head.record_crc = record_crc(raw, head, state->crcs, units);
	MDB_val raw_key = {sizeof raw, raw}, value = {sizeof head + units, NULL};
	int status = mdb_put(txn, records->tables[table], &raw_key, &value, MDB_RESERVE);
	if (status)
		return status;
	memcpy(value.mv_data, &head, sizeof head);
	memcpy((uint8_t *)value.mv_data + sizeof head, state->crcs, units);
	return 0;
}

int records_delete(struct records *records, MDB_txn *txn, enum record_table table, const struct key *key)
{
	uint8_t raw[RAW_KEY_BYTES];
	encode_key(key, raw);
	MDB_val raw_key = {sizeof raw, raw};
	int status = mdb_del(txn, records->tables[table], &raw_key, NULL);
	return status == MDB_NOTFOUND ? 0 : status;
}

int records_put_group(struct records *records, MDB_txn *txn, uint32_t class_index, uint64_t index,
		      const uint64_t stored[GROUP_WORDS])
{
	uint8_t raw[12];
	uint32_t class_raw = htobe32(class_index);
	uint64_t index_raw = htobe64(index);
	memcpy(raw, &class_raw, 4);
	memcpy(raw + 4, &index_raw, 8);
	MDB_val key = {sizeof raw, raw}, value = {GROUP_WORDS * sizeof(uint64_t), (void *)stored};
	return mdb_put(txn, records->tables[TABLE_GROUPS], &key, &value, 0);
}

int records_put_target(struct records *records, MDB_txn *txn, uint64_t target, uint8_t dropping)
{
	uint64_t raw = htobe64(target);
	MDB_val key = {sizeof raw, &raw}, value = {1, &dropping};
	return mdb_put(txn, records->tables[TABLE_TARGETS], &key, &value, 0);
}

static int delete_finished(struct records *records, MDB_txn *txn, uint64_t target)
{
	MDB_cursor *cursor;
	struct engine_finished found;
	int status = mdb_cursor_open(txn, records->tables[TABLE_FINISHED], &cursor);
	if (status)
		return status;
	while (!(status = records_seek_finished(cursor, target, NULL, false, &found)))
		if ((status = mdb_cursor_del(cursor, 0)))
			break;
	mdb_cursor_close(cursor);
	return status == MDB_NOTFOUND ? 0 : status;
}

int records_delete_target(struct records *records, MDB_txn *txn, uint64_t target)
{
	uint64_t raw = htobe64(target);
	MDB_val key = {sizeof raw, &raw};
	int status = mdb_del(txn, records->tables[TABLE_TARGETS], &key, NULL);
	return status && status != MDB_NOTFOUND ? status : delete_finished(records, txn, target);
}

static void encode_finished_key(uint64_t target, const struct engine_ticket *ticket, uint8_t raw[FINISHED_KEY_BYTES])
{
	uint64_t target_raw = htobe64(target);
	uint32_t channel_raw = htobe32(ticket->channel);
	memcpy(raw, &target_raw, 8);
	memcpy(raw + 8, ticket->client, 16);
	memcpy(raw + 24, &channel_raw, 4);
}

int records_put_finished(struct records *records, MDB_txn *txn, const struct engine_finished *finished)
{
	uint8_t raw[FINISHED_KEY_BYTES];
	struct finished_record record = {
		.sequence = finished->ticket.sequence,
		.version = finished->version,
		.chain_version = finished->chain_version,
		.finished_us = finished->finished_us,
		.length = finished->length,
		.crc32c = finished->crc32c,
	}, known;
	MDB_dbi table = records->tables[TABLE_FINISHED];
	encode_finished_key(finished->target, &finished->ticket, raw);
	MDB_val key = {sizeof raw, raw}, value;
	int status = mdb_get(txn, table, &key, &value);
	if (status && status != MDB_NOTFOUND)
		return status;
	if (!record.sequence)
		return status ? 0 : mdb_del(txn, table, &key, NULL);
	if (!status && value.mv_size == sizeof known) {
		memcpy(&known, value.mv_data, sizeof known);
		if (known.sequence > record.sequence)
			return 0;
	}
	value = (MDB_val){sizeof record, &record};
	return mdb_put(txn, table, &key, &value, 0);
}

static int decode_finished(const MDB_val *raw_key, const MDB_val *raw, struct engine_finished *found)
{
	struct finished_record record;
	uint32_t channel;
	if (raw_key->mv_size != FINISHED_KEY_BYTES || raw->mv_size != sizeof record)
		return STATUS_CORRUPT;
	memset(found, 0, sizeof *found);
	memcpy(&record, raw->mv_data, sizeof record);
	memcpy(&found->target, raw_key->mv_data, 8);
	memcpy(found->ticket.client, (const uint8_t *)raw_key->mv_data + 8, 16);
	memcpy(&channel, (const uint8_t *)raw_key->mv_data + 24, 4);
	found->target = be64toh(found->target);
	found->ticket.channel = be32toh(channel);
	found->ticket.sequence = record.sequence;
	found->version = record.version;
	found->chain_version = record.chain_version;
	found->finished_us = record.finished_us;
	found->length = record.length;
	found->crc32c = record.crc32c;
	return 0;
}

int records_seek_finished(MDB_cursor *cursor, uint64_t target, const struct engine_ticket *after, bool next,
			  struct engine_finished *found)
{
	static const struct engine_ticket first;
	uint8_t wanted[FINISHED_KEY_BYTES];
	encode_finished_key(target, after ? after : &first, wanted);
	MDB_val raw_key = {sizeof wanted, wanted}, raw;
	int status = mdb_cursor_get(cursor, &raw_key, &raw, next ? MDB_NEXT : MDB_SET_RANGE);
	if (!status && !next && after && raw_key.mv_size == sizeof wanted && !memcmp(raw_key.mv_data, wanted, sizeof wanted))
		status = mdb_cursor_get(cursor, &raw_key, &raw, MDB_NEXT);
	if (!status)
		status = decode_finished(&raw_key, &raw, found);
	return !status && found->target != target ? MDB_NOTFOUND : status;
}
