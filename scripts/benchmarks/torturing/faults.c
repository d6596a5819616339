/* Has the file system fail below one folder, in a real process: loaded by LD_PRELOAD, told what fails by a file.

   The file is mapped by every process that loads this, and by faults.py, which writes into it and reads the counts:
   they outlive a process that is killed. Where no error is told, a call costs one look at it more. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { OPEN, WRITE, SYNC, NAME, UNLINK, CALLS };
enum area { INDEX, INCOMING, SPOOL, RESULTS, OTHER, AREAS };

struct told {
    int32_t error;    /* errno that calls fail with; 0: none fails */
    uint32_t calls;   /* bits: which calls */
    uint32_t areas;   /* bits: where */
    uint32_t one_in;  /* how many calls it takes, on the average, for one to fail */
    uint32_t failed[CALLS][AREAS];
};

static volatile struct told *told;
static const char *below;
static size_t below_length;
static __thread unsigned int dice;

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("FAULTS_FILE");
    below = getenv("FAULTS_BELOW");
    if (!file || !below)
        return;
    below_length = strlen(below);
    int handle = (int)((long (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(file, O_RDWR | O_CLOEXEC);
    if (handle < 0)
        return;
    void *map = mmap(NULL, sizeof(struct told), PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    close(handle);
    if (map != MAP_FAILED)
        told = map;
}

/* Whether a call on an absolute path fails now; errno says with what. */
static int strikes(enum call call, const char *path)
{
    int error = told->error;
    if (!error || !(told->calls & 1u << call) || strncmp(path, below, below_length) || path[below_length] != '/')
        return 0;
    const char *rest = path + below_length + 1;
    enum area area = !strncmp(rest, "index.sqlite", 12) ? INDEX
                     : !strncmp(rest, "incoming/", 9)   ? INCOMING
                     : !strncmp(rest, "made/", 5)       ? INCOMING
                     : !strncmp(rest, "spool", 5)       ? SPOOL
                     : !strncmp(rest, "results", 7)     ? RESULTS
                                                        : OTHER;
    if (!(told->areas & 1u << area))
        return 0;
    if (!dice)
        dice = (unsigned int)gettid() | 1u;
    if (told->one_in > 1 && (unsigned int)rand_r(&dice) % told->one_in)
        return 0;
    __atomic_fetch_add((uint32_t *)&told->failed[call][area], 1, __ATOMIC_RELAXED);
    errno = error;
    return 1;
}

static int path_strikes(enum call call, const char *path)
{
    char whole[8192];
    int kept = errno;
    if (!told || !told->error || !path)
        return 0;
    if (*path != '/') {
        if (!getcwd(whole, 4096))
            return 0;
        strncat(whole, "/", 2);
        strncat(whole, path, 4000);
        path = whole;
    }
    errno = kept;
    return strikes(call, path);
}

static int file_strikes(enum call call, int file)
{
    char link[64], path[4096];
    int kept = errno;
    if (!told || !told->error)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0)
        return 0;
    path[length] = 0;
    return strikes(call, path);
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENS(name) \
    int name(const char *path, int flags, ...) \
    { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        if ((flags & O_ACCMODE) != O_RDONLY && path_strikes(OPEN, path)) \
            return -1; \
        return next(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        if ((flags & O_ACCMODE) != O_RDONLY && (folder == AT_FDCWD || *path == '/') && path_strikes(OPEN, path)) \
            return -1; \
        return next(folder, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

#define ON_FILE(call, type, name, parameters, arguments) \
    type name parameters \
    { \
        NEXT(name); \
        if (file_strikes(call, file)) \
            return -1; \
        return next arguments; \
    }
ON_FILE(WRITE, ssize_t, write, (int file, const void *data, size_t count), (file, data, count))
ON_FILE(WRITE, ssize_t, pwrite, (int file, const void *data, size_t count, off_t at), (file, data, count, at))
ON_FILE(WRITE, ssize_t, pwrite64, (int file, const void *data, size_t count, off64_t at), (file, data, count, at))
ON_FILE(WRITE, ssize_t, writev, (int file, const struct iovec *data, int count), (file, data, count))
ON_FILE(WRITE, ssize_t, pwritev, (int file, const struct iovec *data, int count, off_t at), (file, data, count, at))
ON_FILE(WRITE, ssize_t, pwritev64, (int file, const struct iovec *data, int count, off64_t at), (file, data, count, at))
ON_FILE(WRITE, int, ftruncate, (int file, off_t length), (file, length))
ON_FILE(WRITE, int, ftruncate64, (int file, off64_t length), (file, length))
ON_FILE(SYNC, int, fsync, (int file), (file))
ON_FILE(SYNC, int, fdatasync, (int file), (file))

#define ON_PATH(call, name, parameters, path, arguments) \
    int name parameters \
    { \
        NEXT(name); \
        if (path_strikes(call, path)) \
            return -1; \
        return next arguments; \
    }
ON_PATH(NAME, rename, (const char *old, const char *new), new, (old, new))
ON_PATH(NAME, renameat, (int from, const char *old, int to, const char *new), new, (from, old, to, new))
ON_PATH(NAME, link, (const char *old, const char *new), new, (old, new))
ON_PATH(NAME, linkat, (int from, const char *old, int to, const char *new, int flags), new, (from, old, to, new, flags))
ON_PATH(NAME, mkdir, (const char *path, mode_t mode), path, (path, mode))
ON_PATH(NAME, mkdirat, (int folder, const char *path, mode_t mode), path, (folder, path, mode))
ON_PATH(UNLINK, unlink, (const char *path), path, (path))
ON_PATH(UNLINK, unlinkat, (int folder, const char *path, int flags), path, (folder, path, flags))
