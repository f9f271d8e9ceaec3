/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A disk that fails on command, for LD_PRELOAD. While the file "full" is in the directory that
 * MAILWARDEN_FAULTS names, the database's writes end with ENOSPC; while "sync" is there, its syncs end
 * with EIO. SQLite writes with pwrite(2), and nothing else in the gateway does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int on(const char *name)
{
	const char *directory = getenv("MAILWARDEN_FAULTS");
	char path[4096];

	if (!directory)
		return 0;
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return access(path, F_OK) == 0;
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset)
{
	static ssize_t (*real)(int, const void *, size_t, off64_t);

	if (on("full")) {
		errno = ENOSPC;
		return -1;
	}
	if (!real)
		real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
	return real(fd, data, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
	return pwrite64(fd, data, count, offset);
}

static int synced(const char *name, int fd)
{
	int (*real)(int);

	if (on("sync")) {
		errno = EIO;
		return -1;
	}
	real = (int (*)(int))dlsym(RTLD_NEXT, name);
	return real(fd);
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
