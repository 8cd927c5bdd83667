/* FUSE requests as they arrive: what each costs.
 *
 * A request that a remote store would have to be asked for becomes a job: it is counted, fault
 * rules decide about it, and it is answered when it is due. LOOKUP, GETATTR, READLINK, OPEN,
 * READ, STATFS, xattrs and a page of a listing cost the latency, READ also the rates; OPENDIR,
 * LSEEK, RELEASE and FORGET are free and answered here.
 */
#include "_slowsource.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BACKGROUND 4096u

struct slow_settings slow_settings;

/* ---- arrival */

/* The path that fault rules are matched with: a lookup's is that of the name looked up. */
static struct fault_verdict decide(const struct job *job)
{
    struct fault_verdict none = {.action = FAULT_NONE};
    if (!faults_exist() || job->unpaid)
        return none;
    if (job->op == OP_READ)
        return fault_decide(OP_READ, file_of(&job->fi)->path);
    struct node *node = node_get(job->ino);
    char *path = node != NULL ? node_path(node) : NULL;
    if (node != NULL)
        node_put(node);
    if (path == NULL)
        return none;
    char *full = path;
    if (job->op == OP_LOOKUP && path[0] != '\0') {
        if (asprintf(&full, "%s/%s", path, job->name) < 0)
            full = path;
    } else if (job->op == OP_LOOKUP) {
        full = (char *)job->name;
    }
    struct fault_verdict verdict = fault_decide(job->op, full);
    if (full != path && full != job->name)
        free(full);
    free(path);
    return verdict;
}

static void submit(fuse_req_t req, enum slow_op op, fuse_ino_t ino, const char *name,
                   const struct job *more)
{
    size_t name_size = name != NULL ? strlen(name) + 1 : 0;
    struct job *job = calloc(1, sizeof *job + name_size);
    if (op == OP_READ)
        count_read_begin();
    else if (more == NULL || !more->unpaid)
        atomic_fetch_add(&slow_counts[op], 1);
    if (job == NULL) {
        if (op == OP_READ)
            count_read_end(NULL, 0);
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (more != NULL)
        *job = *more;
    job->req = req;
    job->op = op;
    job->ino = ino;
    if (name != NULL) {
        memcpy(job->name, name, name_size);
        job->by_name = true;
    }
    job->verdict = decide(job);
    if (job->verdict.action == FAULT_HANG)
        pace_park(job);
    else
        pace_submit(job);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    submit(req, OP_LOOKUP, parent, name, NULL);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    submit(req, OP_GETATTR, ino, NULL, NULL);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    submit(req, OP_READLINK, ino, NULL, NULL);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct job more = {.fi = *fi};
    submit(req, OP_OPEN, ino, NULL, &more);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    struct stat attr;
    struct job more = {.fi = *fi, .size = size, .off = off};
    /* What will flow is known now: the answer is booked on the line before it is made. */
    if (fstat(file_of(fi)->fd, &attr) == 0 && off < attr.st_size)
        more.paid_bytes = (off_t)size < attr.st_size - off ? size : (size_t)(attr.st_size - off);
    submit(req, OP_READ, ino, NULL, &more);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    submit(req, OP_STATFS, ino, NULL, NULL);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct job more = {.size = size};
    submit(req, OP_XATTR, ino, name, &more);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct job more = {.size = size};
    submit(req, OP_XATTR, ino, NULL, &more);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                 const struct fuse_file_info *fi, bool plus)
{
    struct job more = {.fi = *fi, .size = size, .off = off, .plus = plus};
    more.unpaid = !listing_starts_page(fi, off);
    submit(req, OP_READDIR, ino, NULL, &more);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    list(req, ino, size, off, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi)
{
    list(req, ino, size, off, fi, true);
}

/* ---- what costs nothing */

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct open_file *file = file_of(fi);
    close(file->fd);
    free(file->path);
    free(file);
    fuse_reply_err(req, 0);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                     struct fuse_file_info *fi)
{
    (void)ino;
    off_t found = lseek(file_of(fi)->fd, off, whence); /* reads name their own offset */
    if (found < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_lseek(req, found);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    node_forget(ino, lookups);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        node_forget(forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void op_init(void *unused, struct fuse_conn_info *conn)
{
    (void)unused;
    unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_POSIX_ACL | FUSE_CAP_AUTO_INVAL_DATA;
    unsigned plus = FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO;
    if (slow_settings.readdirplus)
        want |= plus;
    /* A splice of page-cached files was measured at a third of the copy through a buffer. */
    conn->want &= ~(plus | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_MOVE);
    conn->want |= want & conn->capable;
    conn->max_write = MAX_REQUEST_BYTES; /* libfuse derives the pages of a READ from it, too */
    conn->max_read = slow_settings.max_read_bytes; /* must repeat the mount option */
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND;
}

const struct fuse_lowlevel_ops slow_operations = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .readlink = op_readlink,
    .open = op_open,
    .read = op_read,
    .release = op_release,
    .opendir = listing_open,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .releasedir = listing_release,
    .statfs = op_statfs,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .lseek = op_lseek,
};
