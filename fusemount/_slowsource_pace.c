/* When an answer is due, and the threads that wait for that.
 *
 * A request waits the latency; then its bytes flow at the stream's rate, and those of all
 * requests together at the total rate. The total is a token bucket without depth over virtual
 * time: each request books the next free stretch of the line, so no interval ever sees more than
 * the rate. A stream is one request: two requests at once on one open file are two streams, as
 * two GETs of an object are.
 *
 * Waiting costs a heap entry, not a thread: a few threads take turns in sleeping until the
 * earliest entry is due (one leads, the others follow). So any number of requests can be late
 * or hung at once, and a hung one keeps nobody else from being answered.
 */
#include "_slowsource.h"

#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#define MAX_THREADS 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t lead, follow;
static pthread_t threads[MAX_THREADS];
static unsigned thread_count;
static job_runner run_job;
static bool leading, stopping, ready;

static struct job **heap;
static size_t heap_len, heap_cap;
static uint64_t arrivals;
static struct job *parked;
static unsigned long parked_count;

static uint64_t latency_ns;
static double stream_ns_per_byte, total_ns_per_byte; /* 0: no limit */
static double line_free_ns;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void pace_set(double latency_s, double stream_bytes_per_s, double total_bytes_per_s)
{
    pthread_mutex_lock(&lock);
    latency_ns = (uint64_t)(latency_s * 1e9);
    stream_ns_per_byte = stream_bytes_per_s > 0 ? 1e9 / stream_bytes_per_s : 0;
    total_ns_per_byte = total_bytes_per_s > 0 ? 1e9 / total_bytes_per_s : 0;
    line_free_ns = 0;
    pthread_mutex_unlock(&lock);
}

static uint64_t book(size_t bytes, uint64_t now) /* lock held */
{
    double begin = (double)(now + latency_ns), done = begin;
    if (bytes > 0 && total_ns_per_byte > 0) {
        double start = line_free_ns > begin ? line_free_ns : begin;
        done = line_free_ns = start + (double)bytes * total_ns_per_byte;
    }
    double streamed = begin + (double)bytes * stream_ns_per_byte;
    return (uint64_t)(streamed > done ? streamed : done);
}

static bool earlier(const struct job *a, const struct job *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static bool heap_push(struct job *job)
{
    if (heap_len == heap_cap) {
        size_t cap = heap_cap ? heap_cap * 2 : 256;
        struct job **grown = realloc(heap, cap * sizeof *heap);
        if (grown == NULL)
            return false;
        heap = grown;
        heap_cap = cap;
    }
    size_t at = heap_len++;
    for (; at > 0 && earlier(job, heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = job;
    return true;
}

static struct job *heap_pop(void)
{
    struct job *top = heap[0], *last = heap[--heap_len];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap_len; at = child) {
        if (child + 1 < heap_len && earlier(heap[child + 1], heap[child]))
            child++;
        if (!earlier(heap[child], last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static void wake_for_top(void) /* lock held */
{
    pthread_cond_signal(leading ? &lead : &follow);
}

static void wait_until(uint64_t due_ns) /* lock held */
{
    struct timespec until = {.tv_sec = (time_t)(due_ns / 1000000000u),
                             .tv_nsec = (long)(due_ns % 1000000000u)};
    leading = true;
    pthread_cond_timedwait(&lead, &lock, &until);
    leading = false;
}

static void *work(void *unused)
{
    (void)unused;
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; the default of 50 us would be added to every wait */
    pthread_mutex_lock(&lock);
    while (!stopping) {
        if (heap_len == 0 || (leading && heap[0]->due_ns > now_ns())) {
            pthread_cond_wait(&follow, &lock);
        } else if (heap[0]->due_ns > now_ns()) {
            wait_until(heap[0]->due_ns);
        } else {
            struct job *job = heap_pop();
            if (heap_len > 0)
                wake_for_top();
            pthread_mutex_unlock(&lock);
            run_job(job);
            pthread_mutex_lock(&lock);
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

int pace_start(unsigned count, job_runner run)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&lead, &monotonic);
    pthread_cond_init(&follow, &monotonic);
    pthread_condattr_destroy(&monotonic);
    run_job = run;
    ready = true;
    for (thread_count = 0; thread_count < count && thread_count < MAX_THREADS; thread_count++) {
        int error = pthread_create(&threads[thread_count], NULL, work, NULL);
        if (error)
            return error;
    }
    return 0;
}

/* Answer `job` when it is due: at once and in this thread if that is now. */
void pace_submit(struct job *job)
{
    uint64_t now = now_ns();
    pthread_mutex_lock(&lock);
    job->due_ns = job->unpaid ? now : book(job->paid_bytes, now);
    job->order = arrivals++;
    bool late = job->due_ns > now && !stopping;
    bool queued = late && heap_push(job);
    if (queued && heap[0] == job)
        wake_for_top();
    bool abandon = stopping || (late && !queued);
    pthread_mutex_unlock(&lock);
    if (queued)
        return;
    if (abandon)
        job_abandon(job);
    else
        run_job(job);
}

/* Keep `job` unanswered until pace_release. */
void pace_park(struct job *job)
{
    pthread_mutex_lock(&lock);
    bool keep = !stopping;
    if (keep) {
        job->next = parked;
        parked = job;
        parked_count++;
    }
    pthread_mutex_unlock(&lock);
    if (!keep)
        job_abandon(job);
}

/* Let every parked request go on, as if it had arrived now; returns how many. */
unsigned long pace_release(void)
{
    unsigned long released = 0;
    uint64_t now = now_ns();
    pthread_mutex_lock(&lock);
    while (parked != NULL) {
        struct job *job = parked;
        job->due_ns = book(job->paid_bytes, now);
        job->order = arrivals++;
        if (!heap_push(job))
            break; /* out of memory: it stays parked */
        parked = job->next;
        parked_count--;
        released++;
    }
    if (released > 0)
        pthread_cond_broadcast(&follow), pthread_cond_signal(&lead);
    pthread_mutex_unlock(&lock);
    return released;
}

unsigned long pace_parked(void)
{
    pthread_mutex_lock(&lock);
    unsigned long count = parked_count;
    pthread_mutex_unlock(&lock);
    return count;
}

/* End the threads and give every request that still waits to `abandon`. */
void pace_stop(job_runner abandon)
{
    if (!ready)
        return;
    pthread_mutex_lock(&lock);
    stopping = true;
    pthread_cond_broadcast(&lead);
    pthread_cond_broadcast(&follow);
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    while (heap_len > 0)
        abandon(heap_pop());
    while (parked != NULL) {
        struct job *job = parked;
        parked = job->next;
        abandon(job);
    }
    parked_count = 0;
    free(heap);
    heap = NULL;
    heap_cap = 0;
}
