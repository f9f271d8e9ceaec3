/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A disk and a clock that fail on command, and a record of what was written, for LD_PRELOAD.
 *
 * MAILWARDEN_FAULTS names a directory. While the file "full" is in it, the database's writes end with
 * ENOSPC; while "readonly" is, with EROFS; while "sync" is, its syncs end with EIO. What "clock" contains is
 * added to the time of day, in seconds. SQLite writes with pwrite(2), and nothing else in the gateway does.
 *
 * To the file MAILWARDEN_RECORD one entry is appended for each write, truncation, sync and removal of
 * a file in the directory MAILWARDEN_RECORDED, after it was done: five numbers (when, what, the length of
 * the path, offset, length), the path, and what was written. The index of the write-ahead log (-shm) is
 * memory that processes share, and no file to be kept. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name, type) \
	static type real; \
	if (!real) \
		real = (type)dlsym(RTLD_NEXT, #name)

enum what { WRITE, TRUNCATE, SYNC, REMOVE };

typedef ssize_t (*write_type)(int, const void *, size_t, off64_t);
typedef int (*sync_type)(int);
typedef int (*truncate_type)(int, off64_t);
typedef int (*unlink_type)(const char *);
typedef int (*clock_type)(clockid_t, struct timespec *);

static int on(const char *name)
{
	const char *directory = getenv("MAILWARDEN_FAULTS");
	char path[4096];

	if (!directory)
		return 0;
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return access(path, F_OK) == 0;
}

static void keep(enum what what, const char *path, uint64_t offset, uint64_t length, const void *data)
{
	static int record = -1;
	const char *folder = getenv("MAILWARDEN_RECORDED");
	const char *file = getenv("MAILWARDEN_RECORD");
	size_t size = strlen(path);
	struct timespec now;
	struct { uint64_t at; uint32_t what, size; uint64_t offset, length; } head;
	struct iovec parts[3];
	int error = errno;

	if (!folder || !file || strncmp(path, folder, strlen(folder)) != 0)
		return;
	if (size > 4 && strcmp(path + size - 4, "-shm") == 0)
		return;
	if (record < 0)
		record = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	clock_gettime(CLOCK_REALTIME, &now);
	head.at = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	head.what = what;
	head.size = (uint32_t)size;
	head.offset = offset;
	head.length = length;
	parts[0] = (struct iovec){&head, sizeof head};
	parts[1] = (struct iovec){(void *)path, size};
	parts[2] = (struct iovec){(void *)data, data ? length : 0};
	if (writev(record, parts, 3) < 0)
		abort(); /* a record with gaps is worth nothing */
	errno = error;
}

static void keep_fd(enum what what, int fd, uint64_t offset, uint64_t length, const void *data)
{
	char link[64], path[4096];
	ssize_t size;

	if (!getenv("MAILWARDEN_RECORD"))
		return;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	size = readlink(link, path, sizeof path - 1);
	if (size <= 0)
		return;
	path[size] = 0;
	keep(what, path, offset, length, data);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset)
{
	ssize_t done;
	REAL(pwrite64, write_type);

	if (on("full") || on("readonly")) {
		errno = on("readonly") ? EROFS : ENOSPC;
		return -1;
	}
	done = real(fd, data, count, offset);
	if (done > 0)
		keep_fd(WRITE, fd, (uint64_t)offset, (uint64_t)done, data);
	return done;
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
	return pwrite64(fd, data, count, offset);
}

int ftruncate64(int fd, off64_t size)
{
	int failed;
	REAL(ftruncate64, truncate_type);

	failed = real(fd, size);
	if (!failed)
		keep_fd(TRUNCATE, fd, 0, (uint64_t)size, NULL);
	return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int unlink(const char *path)
{
	int failed;
	REAL(unlink, unlink_type);

	failed = real(path);
	if (!failed)
		keep(REMOVE, path, 0, 0, NULL);
	return failed;
}

static int synced(sync_type real, int fd)
{
	int failed;

	if (on("sync")) {
		errno = EIO;
		return -1;
	}
	failed = real(fd);
	if (!failed)
		keep_fd(SYNC, fd, 0, 0, NULL);
	return failed;
}

int fsync(int fd)
{
	REAL(fsync, sync_type);
	return synced(real, fd);
}

int fdatasync(int fd)
{
	REAL(fdatasync, sync_type);
	return synced(real, fd);
}

int clock_gettime(clockid_t which, struct timespec *now)
{
	int failed;
	char leap[32] = "", path[4096];
	ssize_t size;
	int fd;
	REAL(clock_gettime, clock_type);

	failed = real(which, now);
	if (failed || which != CLOCK_REALTIME || !getenv("MAILWARDEN_FAULTS"))
		return failed;
	snprintf(path, sizeof path, "%s/clock", getenv("MAILWARDEN_FAULTS"));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		size = read(fd, leap, sizeof leap - 1);
		close(fd);
		if (size > 0)
			now->tv_sec += atol(leap);
	}
	return failed;
}
