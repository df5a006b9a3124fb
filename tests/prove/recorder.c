/* Records what a process asks the kernel to do with the files of one folder, in order.
 *
 * Preloaded (LD_PRELOAD). RECORD_FOLDER is the folder, RECORD_LOG the file that is written:
 *   open FD FLAGS PATH | write FD OFFSET LENGTH, then the bytes | truncate FD LENGTH |
 *   sync FD | close FD | unlink PATH
 * Only calls that succeeded are written down. The folder itself, opened to be synced, is a path too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define FDS 4096
#define REAL(name, type, ...) static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static char ours[FDS];
static const char *folder;
static int record = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("RECORD_LOG");
    folder = getenv("RECORD_FOLDER");
    if (path && folder) {
        REAL(open, int, const char *, int, ...);
        record = real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
}

static void put(const void *bytes, size_t length)
{
    REAL(write, ssize_t, int, const void *, size_t);
    while (length > 0) {
        ssize_t written = real(record, bytes, length);
        if (written <= 0) abort(); /* a record with a hole proves nothing */
        bytes = (const char *)bytes + written;
        length -= (size_t)written;
    }
}

static void say(const char *form, ...)
{
    char line[4096];
    va_list rest;
    va_start(rest, form);
    int length = vsnprintf(line, sizeof line, form, rest);
    va_end(rest);
    if (length < 0 || (size_t)length >= sizeof line) abort();
    put(line, (size_t)length);
}

static int is_ours(int fd)
{
    return record >= 0 && fd >= 0 && fd < FDS && ours[fd];
}

static int opened(int fd, const char *path, int flags)
{
    if (record >= 0 && fd >= 0 && fd < FDS && !strncmp(path, folder, strlen(folder))) {
        ours[fd] = 1;
        say("open %d %d %s\n", fd, flags, path);
    }
    return fd;
}

#define OPEN(name)                                            \
    int name(const char *path, int flags, ...)                \
    {                                                         \
        REAL(name, int, const char *, int, ...);              \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0;   \
        va_end(rest);                                         \
        pthread_mutex_lock(&one_at_a_time);                   \
        int fd = opened(real(path, flags, mode), path, flags); \
        pthread_mutex_unlock(&one_at_a_time);                 \
        return fd;                                            \
    }
OPEN(open)
OPEN(open64)

static ssize_t wrote(int fd, const void *bytes, ssize_t written, off_t offset)
{
    if (written > 0 && is_ours(fd)) {
        say("write %d %lld %zd\n", fd, (long long)offset, written);
        put(bytes, (size_t)written);
    }
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    REAL(write, ssize_t, int, const void *, size_t);
    if (!is_ours(fd)) return real(fd, bytes, length);
    pthread_mutex_lock(&one_at_a_time);
    ssize_t written = real(fd, bytes, length);
    if (written > 0) wrote(fd, bytes, written, lseek(fd, 0, SEEK_CUR) - written);
    pthread_mutex_unlock(&one_at_a_time);
    return written;
}

#define PWRITE(name, position)                                                           \
    ssize_t name(int fd, const void *bytes, size_t length, position offset)              \
    {                                                                                    \
        REAL(name, ssize_t, int, const void *, size_t, position);                        \
        if (!is_ours(fd)) return real(fd, bytes, length, offset);                        \
        pthread_mutex_lock(&one_at_a_time);                                              \
        ssize_t written = wrote(fd, bytes, real(fd, bytes, length, offset), (off_t)offset); \
        pthread_mutex_unlock(&one_at_a_time);                                            \
        return written;                                                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FD(name, parameters, types, arguments, ...)  \
    int name parameters                                 \
    {                                                   \
        REAL(name, int, types);                         \
        if (!is_ours(fd)) return real arguments;        \
        pthread_mutex_lock(&one_at_a_time);             \
        int result = real arguments;                    \
        if (result == 0) say(__VA_ARGS__);              \
        pthread_mutex_unlock(&one_at_a_time);           \
        return result;                                  \
    }
#define TYPES(...) __VA_ARGS__
ON_FD(ftruncate, (int fd, off_t length), TYPES(int, off_t), (fd, length),
      "truncate %d %lld\n", fd, (long long)length)
ON_FD(ftruncate64, (int fd, off64_t length), TYPES(int, off64_t), (fd, length),
      "truncate %d %lld\n", fd, (long long)length)
ON_FD(fsync, (int fd), int, (fd), "sync %d\n", fd)
ON_FD(fdatasync, (int fd), int, (fd), "sync %d\n", fd)

int close(int fd)
{
    REAL(close, int, int);
    if (!is_ours(fd)) return real(fd);
    pthread_mutex_lock(&one_at_a_time);
    ours[fd] = 0;
    say("close %d\n", fd);
    int result = real(fd);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

int unlink(const char *path)
{
    REAL(unlink, int, const char *);
    pthread_mutex_lock(&one_at_a_time);
    int result = real(path);
    if (result == 0 && record >= 0 && !strncmp(path, folder, strlen(folder)))
        say("unlink %s\n", path);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}
