/* Answers: what a request gets when it is due.
 *
 * The source is looked at now, not when the request arrived. Any thread answers; each job is
 * answered exactly once and freed. Reads are counted before they are answered, so whoever has
 * read a byte finds it in the counters.
 */
#include "_slowsource.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_MAX_BYTES 65536u

static void run_lookup(const struct job *job, struct node *parent)
{
    struct fuse_entry_param entry = {.attr_timeout = slow_settings.attr_timeout_s,
                                     .entry_timeout = slow_settings.entry_timeout_s};
    uint64_t id = 0;
    int error = node_learn(parent, job->name, &id, &entry.attr);
    if (error) {
        fuse_reply_err(job->req, error);
        return;
    }
    entry.ino = id;
    if (fuse_reply_entry(job->req, &entry) < 0)
        node_forget(id, 1); /* the asker is gone and will not forget it */
}

static void run_getattr(const struct job *job, struct node *node)
{
    struct stat attr;
    int error = node_stat(node, &attr);
    if (error)
        fuse_reply_err(job->req, error);
    else
        fuse_reply_attr(job->req, &attr, slow_settings.attr_timeout_s);
}

static void run_readlink(const struct job *job, struct node *node)
{
    char target[4096 + 1];
    ssize_t length = readlinkat(node->fd, "", target, sizeof target - 1);
    if (length < 0) {
        fuse_reply_err(job->req, errno);
        return;
    }
    target[length] = '\0';
    fuse_reply_readlink(job->req, target);
}

static void link_to(const struct node *node, char *path, size_t size)
{
    snprintf(path, size, "/proc/self/fd/%d", node->fd);
}

static void run_open(struct job *job, struct node *node)
{
    char link[32];
    link_to(node, link, sizeof link);
    int fd = open(link, O_RDONLY | O_CLOEXEC | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* O_NOATIME is for the owner and root */
        fd = open(link, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fuse_reply_err(job->req, errno);
        return;
    }
    struct open_file *file = calloc(1, sizeof *file);
    if (file == NULL || (file->path = node_path(node)) == NULL) {
        free(file);
        close(fd);
        fuse_reply_err(job->req, ENOMEM);
        return;
    }
    file->fd = fd;
    file->counts = file_counts_get(file->path);
    if (file->counts != NULL)
        atomic_fetch_add(&file->counts->opens, 1);
    job->fi.fh = (uint64_t)(uintptr_t)file;
    job->fi.direct_io = !slow_settings.page_cache;
    job->fi.keep_cache = slow_settings.page_cache;
    if (fuse_reply_open(job->req, &job->fi) < 0) { /* interrupted: no RELEASE will come */
        close(fd);
        free(file->path);
        free(file);
    }
}

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void make_buffer_key(void)
{
    pthread_key_create(&buffer_key, free);
}

/* One buffer a thread, reused: fresh memory costs more than the copy into it. */
static char *thread_buffer(void)
{
    pthread_once(&buffer_once, make_buffer_key);
    char *buffer = pthread_getspecific(buffer_key);
    if (buffer == NULL && posix_memalign((void **)&buffer, 4096, MAX_REQUEST_BYTES) == 0)
        pthread_setspecific(buffer_key, buffer);
    return buffer;
}

static void copy_out(const struct job *job, const struct open_file *file, size_t size)
{
    char *buffer = thread_buffer();
    size_t done = 0;
    int error = buffer == NULL ? ENOMEM : 0;
    while (!error && done < size) {
        ssize_t got = pread(file->fd, buffer + done, size - done, job->off + (off_t)done);
        if (got == 0)
            break;
        if (got > 0)
            done += (size_t)got;
        else if (errno != EINTR)
            error = errno;
    }
    count_read_end(file->counts, error ? 0 : done);
    if (error)
        fuse_reply_err(job->req, error);
    else
        fuse_reply_buf(job->req, buffer, done);
}

static void run_read(const struct job *job)
{
    const struct open_file *file = file_of(&job->fi);
    struct stat attr;
    size_t size = job->size < MAX_REQUEST_BYTES ? job->size : MAX_REQUEST_BYTES;
    if (fstat(file->fd, &attr) < 0) {
        int error = errno;
        count_read_end(file->counts, 0);
        fuse_reply_err(job->req, error);
        return;
    }
    off_t left = job->off < attr.st_size ? attr.st_size - job->off : 0;
    if ((off_t)size > left)
        size = (size_t)left;
    if (job->verdict.action == FAULT_SHORT) {
        size_t most = job->verdict.short_bytes > 0 ? job->verdict.short_bytes : size / 2;
        if (size > most)
            size = most;
    }
    copy_out(job, file, size);
}

static void run_statfs(const struct job *job, struct node *node)
{
    struct statvfs answer;
    if (fstatvfs(node->fd, &answer) < 0)
        fuse_reply_err(job->req, errno);
    else
        fuse_reply_statfs(job->req, &answer);
}

static void run_xattr(const struct job *job, struct node *node)
{
    char link[32];
    link_to(node, link, sizeof link);
    size_t size = job->size < XATTR_MAX_BYTES ? job->size : XATTR_MAX_BYTES;
    char *value = size > 0 ? malloc(size) : NULL;
    if (size > 0 && value == NULL) {
        fuse_reply_err(job->req, ENOMEM);
        return;
    }
    ssize_t length = job->by_name ? getxattr(link, job->name, value, size)
                                  : listxattr(link, value, size);
    if (length < 0)
        fuse_reply_err(job->req, errno);
    else if (size == 0)
        fuse_reply_xattr(job->req, (size_t)length);
    else
        fuse_reply_buf(job->req, value, (size_t)length);
    free(value);
}

/* Answer `job` now and free it; called in any thread. */
void job_run(struct job *job)
{
    if (job->verdict.action == FAULT_ERROR) {
        if (job->op == OP_READ)
            count_read_end(file_of(&job->fi)->counts, 0);
        fuse_reply_err(job->req, job->verdict.error);
    } else if (job->op == OP_READ) {
        run_read(job);
    } else if (job->op == OP_READDIR) {
        listing_run(job);
    } else {
        struct node *node = node_get(job->ino);
        if (node == NULL)
            fuse_reply_err(job->req, ESTALE);
        else if (job->op == OP_LOOKUP)
            run_lookup(job, node);
        else if (job->op == OP_GETATTR)
            run_getattr(job, node);
        else if (job->op == OP_READLINK)
            run_readlink(job, node);
        else if (job->op == OP_OPEN)
            run_open(job, node);
        else if (job->op == OP_STATFS)
            run_statfs(job, node);
        else
            run_xattr(job, node);
        if (node != NULL)
            node_put(node);
    }
    free(job);
}

/* The mount ends: whoever still waits hears of it. */
void job_abandon(struct job *job)
{
    if (job->op == OP_READ)
        count_read_end(NULL, 0);
    fuse_reply_err(job->req, ENOTCONN);
    free(job);
}
