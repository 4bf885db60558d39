/* Lookups of names that need nothing of this process, asked of a metadata daemon by the thread that received them.
 *
 * A lookup is most of what a mount is asked. Through Python it costs two hand-overs between threads and the
 * interpreter's time; here it is one request on a connection of the thread's own. Whatever is not plain goes the
 * usual way: inodes that this process has open (it knows more of them than the daemon), errors other than "no such
 * name", a daemon that is slow or gone. The frames and bodies are those of common/net/frame.py and proto/lookup.py. */
#ifndef THREEFS_FUSE_LOOKUP_H
#define THREEFS_FUSE_LOOKUP_H

#include "fuse_bridge.h"

/* cffi:begin */
/* The daemon to ask from now on: a numeric address and port, or NULL for none. 0, or EINVAL. */
int bridge_set_meta(struct bridge *bridge, const char *host, const char *port);
/* 1 while lookups are asked; 0 if no daemon is set, or since it failed to answer. */
int bridge_asks_meta(struct bridge *bridge);
/* How many were answered so. */
uint64_t bridge_lookups(struct bridge *bridge);
/* This process has the inode open, or no longer. */
void bridge_note_open(struct bridge *bridge, uint64_t ino);
void bridge_note_closed(struct bridge *bridge, uint64_t ino);
/* cffi:end */

#endif
