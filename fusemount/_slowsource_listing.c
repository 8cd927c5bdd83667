/* Listings: an open folder, its entries as they were when its reader was at the beginning, and
 * the pages that a store would be asked for.
 */
#include "_slowsource.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct entry {
    ino_t ino;
    unsigned char type;
    char *name;
};

struct open_dir {
    pthread_mutex_t lock;
    struct node *node;
    DIR *stream;
    struct entry *entries; /* as listed when the reader was at the beginning */
    size_t len, cap;
    size_t paid_pages;
};

static struct open_dir *dir_of(const struct fuse_file_info *fi)
{
    return (struct open_dir *)(uintptr_t)fi->fh;
}

/* A store lists in pages: the first request of a page pays for it, the end is free. */
bool listing_starts_page(const struct fuse_file_info *fi, off_t off)
{
    struct open_dir *dir = dir_of(fi);
    pthread_mutex_lock(&dir->lock);
    bool starts = off == 0;
    if (off > 0 && (size_t)off < dir->len) {
        size_t page = (size_t)off / slow_settings.list_page_entries;
        starts = page >= dir->paid_pages;
        if (starts)
            dir->paid_pages = page + 1;
    }
    pthread_mutex_unlock(&dir->lock);
    return starts;
}

static void drop_entries(struct open_dir *dir)
{
    for (size_t i = 0; i < dir->len; i++)
        free(dir->entries[i].name);
    dir->len = 0;
}

static int take_listing(struct open_dir *dir) /* dir->lock held */
{
    drop_entries(dir);
    rewinddir(dir->stream);
    dir->paid_pages = 1;
    for (;;) {
        errno = 0;
        const struct dirent *found = readdir(dir->stream);
        if (found == NULL)
            return errno;
        if (dir->len == dir->cap) {
            size_t cap = dir->cap ? dir->cap * 2 : 64;
            struct entry *grown = realloc(dir->entries, cap * sizeof *grown);
            if (grown == NULL)
                return ENOMEM;
            dir->entries = grown;
            dir->cap = cap;
        }
        struct entry entry = {found->d_ino, found->d_type, strdup(found->d_name)};
        if (entry.name == NULL)
            return ENOMEM;
        dir->entries[dir->len++] = entry;
    }
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Append entry number `at`; returns false if it does not fit. */
static bool append_entry(const struct job *job, const struct open_dir *dir, size_t at,
                         char *buffer, size_t *used)
{
    const struct entry *entry = &dir->entries[at];
    struct fuse_entry_param param = {.attr_timeout = slow_settings.attr_timeout_s,
                                     .entry_timeout = slow_settings.entry_timeout_s};
    size_t left = job->size - *used;
    size_t need = job->plus ? fuse_add_direntry_plus(job->req, NULL, 0, entry->name, NULL, 0)
                            : fuse_add_direntry(job->req, NULL, 0, entry->name, NULL, 0);
    if (need > left)
        return false;
    uint64_t id = 0;
    if (job->plus && !is_dots(entry->name) &&
        node_learn(dir->node, entry->name, &id, &param.attr) == 0)
        param.ino = id; /* else no lookup is counted, and the kernel asks by name */
    if (param.ino == 0) {
        param.attr.st_mode = (mode_t)entry->type << 12;
        param.attr.st_ino = entry->ino;
        if (slow_settings.moving_inodes) {
            uint64_t ino = node_known_ino(dir->node, entry->name);
            param.attr.st_ino = ino > 0 ? ino : 0xffffffff; /* libfuse's "not known" */
        }
    }
    if (job->plus)
        fuse_add_direntry_plus(job->req, buffer + *used, left, entry->name, &param,
                               (off_t)at + 1);
    else
        fuse_add_direntry(job->req, buffer + *used, left, entry->name, &param.attr,
                          (off_t)at + 1);
    *used += need;
    return true;
}

void listing_run(const struct job *job)
{
    struct open_dir *dir = dir_of(&job->fi);
    char *buffer = malloc(job->size);
    size_t used = 0;
    pthread_mutex_lock(&dir->lock);
    int error = buffer == NULL ? ENOMEM : job->off == 0 ? take_listing(dir) : 0;
    for (size_t at = (size_t)job->off; !error && at < dir->len; at++)
        if (!append_entry(job, dir, at, buffer, &used))
            break;
    pthread_mutex_unlock(&dir->lock);
    if (error)
        fuse_reply_err(job->req, error);
    else
        fuse_reply_buf(job->req, buffer, used);
    free(buffer);
}

static void free_dir(struct open_dir *dir)
{
    drop_entries(dir);
    free(dir->entries);
    if (dir->stream != NULL)
        closedir(dir->stream);
    if (dir->node != NULL)
        node_put(dir->node);
    pthread_mutex_destroy(&dir->lock);
    free(dir);
}

void listing_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct open_dir *dir = calloc(1, sizeof *dir);
    if (dir == NULL) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    pthread_mutex_init(&dir->lock, NULL);
    int error = 0, fd = -1;
    if ((dir->node = node_get(ino)) == NULL)
        error = ESTALE;
    else if ((fd = openat(dir->node->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        error = errno;
    else if ((dir->stream = fdopendir(fd)) == NULL)
        error = errno, close(fd);
    if (error) {
        free_dir(dir);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = (uint64_t)(uintptr_t)dir;
    if (fuse_reply_open(req, fi) < 0)
        free_dir(dir);
}

void listing_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    free_dir(dir_of(fi));
    fuse_reply_err(req, 0);
}
