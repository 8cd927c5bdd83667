/* Which file of the source a node id means.
 *
 * Each node that the kernel knows holds an O_PATH descriptor: what is done to the node is done to
 * that file, whatever its name has become, and no symbolic link is followed on the way. Node ids
 * are a counter of our own; 1 is the root.
 *
 * A node is found again by (device, inode number): names of one file share a node, and st_ino is
 * the source's. Under `moving` it is found by (parent, name) and st_ino is a number given at the
 * lookup and forgotten with the node, as libfuse's path-based file systems (sshfs and its like)
 * do it: hard links are separate files, a file renamed over keeps the number of its name, and
 * numbers depend on who was looked up first.
 *
 * A node lives while the kernel counts lookups of it, a request uses it, or a child names it as
 * its parent; it is in the tables only while the kernel counts lookups.
 */
#include "_slowsource.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_BUCKETS 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct node **by_id, **by_key;
static size_t buckets, count;
static uint64_t last_id, last_ino;
static bool by_name;
static struct node *root;

static size_t hash_numbers(uint64_t a, uint64_t b)
{
    uint64_t mixed = (a * 0x9E3779B97F4A7C15u) ^ (b + 0x7F4A7C15u + (a << 6));
    mixed ^= mixed >> 32;
    mixed *= 0xD6E8FEB86659FD93u;
    return (size_t)(mixed ^ (mixed >> 32));
}

static size_t hash_name(uint64_t parent_id, const char *name)
{
    uint64_t hash = 14695981039346656037u ^ parent_id; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return (size_t)(hash ^ (hash >> 32));
}

static size_t key_of(const struct node *node)
{
    size_t hash = by_name && node->parent != NULL ? hash_name(node->parent->id, node->name)
                                                  : hash_numbers(node->dev, node->ino);
    return hash & (buckets - 1);
}

static size_t id_of(uint64_t id)
{
    return hash_numbers(id, 0) & (buckets - 1);
}

static void table_link(struct node *node)
{
    struct node **id_slot = &by_id[id_of(node->id)], **key_slot = &by_key[key_of(node)];
    node->next_by_id = *id_slot;
    *id_slot = node;
    node->next_by_key = *key_slot;
    *key_slot = node;
    count++;
}

static void table_unlink(struct node *node)
{
    struct node **slot = &by_id[id_of(node->id)];
    while (*slot != node)
        slot = &(*slot)->next_by_id;
    *slot = node->next_by_id;
    slot = &by_key[key_of(node)];
    while (*slot != node)
        slot = &(*slot)->next_by_key;
    *slot = node->next_by_key;
    count--;
}

static void table_grow(void)
{
    size_t old_buckets = buckets;
    struct node **old = by_id, **ids = calloc(buckets * 2, sizeof *ids);
    struct node **keys = calloc(buckets * 2, sizeof *keys);
    if (ids == NULL || keys == NULL) { /* longer chains, then */
        free(ids);
        free(keys);
        return;
    }
    free(by_key);
    by_id = ids;
    by_key = keys;
    buckets *= 2;
    count = 0;
    for (size_t i = 0; i < old_buckets; i++)
        for (struct node *node = old[i], *next; node != NULL; node = next) {
            next = node->next_by_id;
            table_link(node);
        }
    free(old);
}

static struct node *find_id(uint64_t id)
{
    struct node *node = by_id[id_of(id)];
    while (node != NULL && node->id != id)
        node = node->next_by_id;
    return node;
}

static struct node *find_file(dev_t dev, ino_t ino)
{
    struct node *node = by_key[hash_numbers(dev, ino) & (buckets - 1)];
    while (node != NULL && (node->dev != dev || node->ino != ino))
        node = node->next_by_key;
    return node;
}

static struct node *find_name(uint64_t parent_id, const char *name)
{
    struct node *node = by_key[hash_name(parent_id, name) & (buckets - 1)];
    while (node != NULL && (node->parent == NULL || node->parent->id != parent_id ||
                            strcmp(node->name, name) != 0))
        node = node->next_by_key;
    return node;
}

/* Free `node` if nothing needs it, and then its parent, and so on. Lock held. */
static void reap(struct node *node)
{
    while (node != NULL && node->lookups == 0 && node->refs == 0) {
        struct node *parent = node->parent;
        close(node->fd);
        free(node->name);
        free(node);
        if (parent != NULL)
            parent->refs--;
        node = parent;
    }
}

static struct node *make(struct node *parent, const char *name, int fd, const struct stat *attr)
{
    struct node *node = calloc(1, sizeof *node);
    char *copy = strdup(name);
    if (node == NULL || copy == NULL) {
        free(node);
        free(copy);
        return NULL;
    }
    node->fd = fd;
    node->dev = attr->st_dev;
    node->ino = attr->st_ino;
    node->name = copy;
    node->parent = parent;
    if (parent != NULL)
        parent->refs++;
    return node;
}

int nodes_open(const char *source, bool moving)
{
    struct stat attr;
    int fd = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (fstatat(fd, "", &attr, AT_EMPTY_PATH) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    by_name = moving;
    buckets = FIRST_BUCKETS;
    by_id = calloc(buckets, sizeof *by_id);
    by_key = calloc(buckets, sizeof *by_key);
    root = make(NULL, "", fd, &attr);
    if (by_id == NULL || by_key == NULL || root == NULL)
        return ENOMEM;
    root->id = last_id = FUSE_ROOT_ID;
    root->shown_ino = last_ino = 1;
    root->lookups = 1;
    table_link(root);
    return 0;
}

/* Drop all that the kernel has not: it need not forget what it knew at an unmount. */
void nodes_close(void)
{
    for (size_t i = 0; by_id != NULL && i < buckets; i++)
        for (struct node *node = by_id[i]; node != NULL; node = node->next_by_id)
            close(node->fd);
}

/* The node of `id`, to be given back by node_put; NULL if the kernel should not know it. */
struct node *node_get(uint64_t id)
{
    pthread_mutex_lock(&lock);
    struct node *node = find_id(id);
    if (node != NULL)
        node->refs++;
    pthread_mutex_unlock(&lock);
    return node;
}

void node_put(struct node *node)
{
    pthread_mutex_lock(&lock);
    node->refs--;
    reap(node);
    pthread_mutex_unlock(&lock);
}

/* The file is known by another name now: remember the one that was used last. */
static void rename_node(struct node *node, struct node *parent, const char *name)
{
    if (node == root || (node->parent == parent && strcmp(node->name, name) == 0))
        return;
    for (const struct node *at = parent; at != NULL; at = at->parent)
        if (at == node) /* folders were swapped meanwhile: names must not run in a circle */
            return;
    char *copy = strdup(name);
    if (copy == NULL)
        return;
    struct node *before = node->parent;
    free(node->name);
    node->name = copy;
    node->parent = parent;
    parent->refs++;
    before->refs--;
    reap(before);
}

/* Under `moving` the name leads to another file: the same id and number, a new descriptor. */
static struct node *replace(struct node *old, int fd, const struct stat *attr)
{
    struct node *node = make(old->parent, old->name, fd, attr);
    if (node == NULL)
        return NULL;
    node->id = old->id;
    node->shown_ino = old->shown_ino;
    node->lookups = old->lookups;
    table_unlink(old);
    old->lookups = 0;
    table_link(node);
    reap(old);
    return node;
}

/* Look `name` up below `parent` and count the lookup.
 *
 * Fills `id` and `attr`; returns 0 or an errno. The caller tells the kernel, or forgets one.
 */
int node_learn(struct node *parent, const char *name, uint64_t *id, struct stat *attr)
{
    int fd = openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (fstatat(fd, "", attr, AT_EMPTY_PATH) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    pthread_mutex_lock(&lock);
    struct node *node = by_name ? find_name(parent->id, name)
                                : find_file(attr->st_dev, attr->st_ino);
    if (node != NULL && node->dev == attr->st_dev && node->ino == attr->st_ino) {
        close(fd);
        if (!by_name)
            rename_node(node, parent, name);
    } else if (node != NULL) {
        node = replace(node, fd, attr);
    } else if ((node = make(parent, name, fd, attr)) != NULL) {
        node->id = ++last_id;
        node->shown_ino = ++last_ino;
        if (count >= buckets)
            table_grow();
        table_link(node);
    }
    if (node != NULL) {
        node->lookups++;
        *id = node->id;
        if (by_name)
            attr->st_ino = node->shown_ino;
    }
    pthread_mutex_unlock(&lock);
    if (node == NULL)
        close(fd);
    return node != NULL ? 0 : ENOMEM;
}

void node_forget(uint64_t id, uint64_t lookups)
{
    pthread_mutex_lock(&lock);
    struct node *node = find_id(id);
    if (node != NULL && node != root) {
        node->lookups -= lookups < node->lookups ? lookups : node->lookups;
        if (node->lookups == 0) {
            table_unlink(node);
            reap(node);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* The node's attributes now, with the number that this mount shows; 0 or an errno. */
int node_stat(const struct node *node, struct stat *attr)
{
    if (fstatat(node->fd, "", attr, AT_EMPTY_PATH) < 0)
        return errno;
    if (by_name) {
        pthread_mutex_lock(&lock);
        attr->st_ino = node->shown_ino;
        pthread_mutex_unlock(&lock);
    }
    return 0;
}

/* Under `moving`: the number of a name that is known, or 0. */
uint64_t node_known_ino(const struct node *parent, const char *name)
{
    pthread_mutex_lock(&lock);
    const struct node *node = find_name(parent->id, name);
    uint64_t ino = node != NULL ? node->shown_ino : 0;
    pthread_mutex_unlock(&lock);
    return ino;
}

/* The path below the root by the names last used, "" for the root; NULL without memory. */
char *node_path(const struct node *node)
{
    pthread_mutex_lock(&lock);
    size_t size = 1;
    for (const struct node *at = node; at != root && at != NULL; at = at->parent)
        size += strlen(at->name) + 1;
    char *path = malloc(size), *end = path != NULL ? path + size - 1 : NULL;
    if (path != NULL) {
        *end = '\0';
        for (const struct node *at = node; at != root && at != NULL; at = at->parent) {
            size_t length = strlen(at->name);
            end -= length;
            memcpy(end, at->name, length);
            if (end > path + 1)
                *--end = '/';
        }
        memmove(path, end, strlen(end) + 1);
    }
    pthread_mutex_unlock(&lock);
    return path;
}

/* Under `moving`: pass every number on to the next known file; returns how many files moved. */
unsigned long nodes_move(void)
{
    struct node *first = NULL, *before = NULL;
    unsigned long moved = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; by_name && i < buckets; i++)
        for (struct node *node = by_id[i]; node != NULL; node = node->next_by_id) {
            if (node == root)
                continue;
            if (before != NULL) {
                uint64_t number = before->shown_ino;
                before->shown_ino = node->shown_ino;
                node->shown_ino = number;
            } else {
                first = node;
            }
            before = node;
            moved++;
        }
    if (moved == 1) /* nobody to take another's number from */
        first->shown_ino = ++last_ino;
    pthread_mutex_unlock(&lock);
    return moved;
}

unsigned long nodes_count(void)
{
    pthread_mutex_lock(&lock);
    unsigned long known = count;
    pthread_mutex_unlock(&lock);
    return known;
}
