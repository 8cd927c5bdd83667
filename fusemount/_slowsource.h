/* The slow source's parts and what they share: one process serves one mount, so the state of
 * each part is static to its file and lives as long as the mount.
 *
 *   _slowsource.c          Python module: mount, serve, stop, the calls that change it at run time
 *   _slowsource_ops.c      FUSE requests as they arrive: what each costs
 *   _slowsource_answers.c  what a request gets when it is due
 *   _slowsource_device.c   what libfuse's answer to INIT leaves out
 *   _slowsource_listing.c  open folders
 *   _slowsource_nodes.c    which file of the source a node id means
 *   _slowsource_pace.c     when an answer is due, and the threads that wait for that
 *   _slowsource_faults.c   counters and fault rules
 *
 * Locks are leaves: no part calls another while it holds its own.
 */
#ifndef SLOWSOURCE_H
#define SLOWSOURCE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* What a request counts as, for counters and fault rules. */
enum slow_op {
    OP_LOOKUP,
    OP_GETATTR,
    OP_READLINK,
    OP_OPEN,
    OP_READ,
    OP_READDIR,
    OP_XATTR,
    OP_STATFS,
    OP_COUNT
};
extern const char *const slow_op_names[OP_COUNT];

struct slow_settings {
    double attr_timeout_s;
    double entry_timeout_s;
    unsigned list_page_entries; /* a listing pays the latency once for so many entries */
    unsigned max_read_bytes;
    bool page_cache;            /* false: direct_io, every read of a client is a request */
    bool readdirplus;
    bool moving_inodes;
};

/* ---- nodes */
struct node {
    uint64_t id;        /* the kernel's name for it; a counter, never used twice */
    uint64_t shown_ino; /* st_ino under moving_inodes */
    dev_t dev;
    ino_t ino;
    int fd; /* O_PATH; keeps (dev, ino) from being used for another file */
    uint64_t lookups;
    unsigned refs; /* requests that use it, and children that name it as their parent */
    struct node *parent;
    char *name;
    struct node *next_by_id, *next_by_key;
};

int nodes_open(const char *source, bool moving);
void nodes_close(void);
struct node *node_get(uint64_t id);
void node_put(struct node *node);
int node_learn(struct node *parent, const char *name, uint64_t *id, struct stat *attr);
void node_forget(uint64_t id, uint64_t lookups);
int node_stat(const struct node *node, struct stat *attr);
uint64_t node_known_ino(const struct node *parent, const char *name);
char *node_path(const struct node *node);
unsigned long nodes_move(void);
unsigned long nodes_count(void);

/* ---- counters and faults */
struct file_counts {
    atomic_ullong opens, reads, bytes;
    struct file_counts *next;
    char path[];
};
typedef void (*file_visitor)(void *context, const struct file_counts *file);

extern atomic_ullong slow_counts[OP_COUNT];
extern atomic_ullong slow_bytes, slow_reads_in_flight, slow_reads_in_flight_max, slow_faults;

struct file_counts *file_counts_get(const char *path);
void file_counts_visit(file_visitor visit, void *context);
void count_read_begin(void);
void count_read_end(struct file_counts *file, size_t bytes);
void counts_reset(void);

enum fault_action { FAULT_NONE, FAULT_ERROR, FAULT_HANG, FAULT_SHORT };
struct fault_verdict {
    enum fault_action action;
    int error;          /* FAULT_ERROR: an errno */
    size_t short_bytes; /* FAULT_SHORT: at most so many; 0: half of what there is */
};
int fault_add(const struct fault_verdict *verdict, enum slow_op op, const char *glob,
              unsigned long long nth, unsigned long long count);
void faults_clear(void);
bool faults_exist(void);
struct fault_verdict fault_decide(enum slow_op op, const char *path);

/* ---- pace */
struct job {
    uint64_t due_ns;
    uint64_t order; /* equal times are answered in the order of arrival */
    struct job *next;
    fuse_req_t req;
    fuse_ino_t ino;
    enum slow_op op;
    struct fault_verdict verdict;
    struct fuse_file_info fi;
    off_t off;
    size_t size;
    size_t paid_bytes; /* what the rates are charged for */
    bool plus, by_name, unpaid;
    char name[];
};
typedef void (*job_runner)(struct job *job);

void pace_set(double latency_s, double stream_bytes_per_s, double total_bytes_per_s);
int pace_start(unsigned threads, job_runner run);
void pace_submit(struct job *job);
void pace_park(struct job *job);
unsigned long pace_release(void);
unsigned long pace_parked(void);
void pace_stop(job_runner abandon);

/* ---- device */
int device_attach(struct fuse_session *session);

/* ---- requests */
/* One READ at most; the kernel splits what is larger. */
#define MAX_REQUEST_BYTES (1u << 20)

struct open_file {
    int fd;
    struct file_counts *counts;
    char *path;
};

static inline struct open_file *file_of(const struct fuse_file_info *fi)
{
    return (struct open_file *)(uintptr_t)fi->fh;
}

extern struct slow_settings slow_settings;
extern const struct fuse_lowlevel_ops slow_operations;
bool listing_starts_page(const struct fuse_file_info *fi, off_t off);
void listing_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void listing_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void listing_run(const struct job *job);
void job_run(struct job *job);
void job_abandon(struct job *job);

#endif
