/* Counters and fault rules.
 *
 * Counters are atomics that any thread adds to; counts per path are created at the first open of
 * the path and live until the process ends (a reset makes them zero), so an open file may keep a
 * pointer to its own. A rule counts the requests that it matches, from 1: it takes effect from
 * the nth on, for `count` of them (0: until it is cleared). The first rule that takes effect wins.
 */
#include "_slowsource.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BUCKETS 4096

const char *const slow_op_names[OP_COUNT] = {"lookup", "getattr", "readlink", "open",
                                             "read",   "readdir", "xattr",    "statfs"};

atomic_ullong slow_counts[OP_COUNT];
atomic_ullong slow_bytes, slow_reads_in_flight, slow_reads_in_flight_max, slow_faults;

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static struct file_counts *files[FILE_BUCKETS];

struct rule {
    struct fault_verdict verdict;
    enum slow_op op; /* OP_COUNT: any */
    unsigned long long nth, count, seen;
    struct rule *next;
    char glob[]; /* empty: any path */
};
static pthread_mutex_t rules_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule *rules;
static atomic_bool have_rules;

static struct file_counts **bucket_of(const char *path)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *at = path; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    return &files[hash % FILE_BUCKETS];
}

/* The counts of `path`, or NULL without memory: then nothing is counted for it. */
struct file_counts *file_counts_get(const char *path)
{
    struct file_counts **bucket = bucket_of(path), *file;
    pthread_mutex_lock(&files_lock);
    for (file = *bucket; file != NULL && strcmp(file->path, path) != 0; file = file->next)
        ;
    if (file == NULL && (file = calloc(1, sizeof *file + strlen(path) + 1)) != NULL) {
        strcpy(file->path, path);
        file->next = *bucket;
        *bucket = file;
    }
    pthread_mutex_unlock(&files_lock);
    return file;
}

void file_counts_visit(file_visitor visit, void *context)
{
    pthread_mutex_lock(&files_lock);
    for (size_t i = 0; i < FILE_BUCKETS; i++)
        for (struct file_counts *file = files[i]; file != NULL; file = file->next)
            visit(context, file);
    pthread_mutex_unlock(&files_lock);
}

void count_read_begin(void)
{
    atomic_fetch_add(&slow_counts[OP_READ], 1);
    unsigned long long now = atomic_fetch_add(&slow_reads_in_flight, 1) + 1;
    unsigned long long most = atomic_load(&slow_reads_in_flight_max);
    while (now > most && !atomic_compare_exchange_weak(&slow_reads_in_flight_max, &most, now))
        ;
}

void count_read_end(struct file_counts *file, size_t bytes)
{
    atomic_fetch_add(&slow_bytes, bytes);
    if (file != NULL) {
        atomic_fetch_add(&file->reads, 1);
        atomic_fetch_add(&file->bytes, bytes);
    }
    atomic_fetch_sub(&slow_reads_in_flight, 1);
}

static void zero_file(void *unused, const struct file_counts *file)
{
    (void)unused;
    struct file_counts *mine = (struct file_counts *)file;
    atomic_store(&mine->opens, 0);
    atomic_store(&mine->reads, 0);
    atomic_store(&mine->bytes, 0);
}

/* What is in flight stays counted as such, and is the new maximum. */
void counts_reset(void)
{
    for (int op = 0; op < OP_COUNT; op++)
        atomic_store(&slow_counts[op], 0);
    atomic_store(&slow_bytes, 0);
    atomic_store(&slow_faults, 0);
    atomic_store(&slow_reads_in_flight_max, atomic_load(&slow_reads_in_flight));
    file_counts_visit(zero_file, NULL);
}

int fault_add(const struct fault_verdict *verdict, enum slow_op op, const char *glob,
              unsigned long long nth, unsigned long long count)
{
    struct rule *rule = calloc(1, sizeof *rule + strlen(glob) + 1);
    if (rule == NULL)
        return ENOMEM;
    rule->verdict = *verdict;
    rule->op = op;
    rule->nth = nth;
    rule->count = count;
    strcpy(rule->glob, glob);
    pthread_mutex_lock(&rules_lock);
    struct rule **end = &rules;
    while (*end != NULL)
        end = &(*end)->next;
    *end = rule;
    atomic_store(&have_rules, true);
    pthread_mutex_unlock(&rules_lock);
    return 0;
}

void faults_clear(void)
{
    pthread_mutex_lock(&rules_lock);
    while (rules != NULL) {
        struct rule *rule = rules;
        rules = rule->next;
        free(rule);
    }
    atomic_store(&have_rules, false);
    pthread_mutex_unlock(&rules_lock);
}

/* Whether fault_decide could say anything: spares callers the making of a path. */
bool faults_exist(void)
{
    return atomic_load(&have_rules);
}

struct fault_verdict fault_decide(enum slow_op op, const char *path)
{
    struct fault_verdict verdict = {.action = FAULT_NONE};
    pthread_mutex_lock(&rules_lock);
    for (struct rule *rule = rules; rule != NULL; rule = rule->next) {
        if (rule->op != OP_COUNT && rule->op != op)
            continue;
        if (rule->verdict.action == FAULT_SHORT && op != OP_READ)
            continue;
        if (rule->glob[0] != '\0' && fnmatch(rule->glob, path, 0) != 0)
            continue;
        unsigned long long which = ++rule->seen;
        if (which < rule->nth || (rule->count > 0 && which - rule->nth >= rule->count))
            continue;
        if (verdict.action == FAULT_NONE)
            verdict = rule->verdict;
    }
    pthread_mutex_unlock(&rules_lock);
    if (verdict.action != FAULT_NONE)
        atomic_fetch_add(&slow_faults, 1);
    return verdict;
}
