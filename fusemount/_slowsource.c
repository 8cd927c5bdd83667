/* fusemount._slowsource: a read-only FUSE view of a directory that behaves like remote storage.
 *
 * run() mounts, serves without the interpreter's lock until somebody unmounts, a signal or stop()
 * comes or the lifeline breaks, and leaves nothing behind. It can be called once in a process.
 * The other functions may be called from other threads meanwhile. It knows nothing of how it is
 * controlled: that is Python's (slowsource_control).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_slowsource.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

/* Receivers answer at once what costs nothing, and may wait for the source's own disk then. */
#define RECEIVERS 64

static struct fuse_session *session;
static pthread_t serving_thread;
static int signal_fd = -1, quit_fd = -1, done_fd = -1, lifeline_fd = -1;
static atomic_bool loop_done, serving, used;
static char mount_complaint[512];

static void keep_or_print(enum fuse_log_level level, const char *format, va_list arguments)
{
    (void)level;
    if (atomic_load(&serving))
        vfprintf(stderr, format, arguments);
    else
        vsnprintf(mount_complaint, sizeof mount_complaint, format, arguments);
}

static void do_nothing(int number)
{
    (void)number;
}

/* Wait for a reason to end, then take the serving thread out of libfuse's loop. */
static void *watch(void *unused)
{
    (void)unused;
    struct pollfd reasons[] = {{.fd = done_fd, .events = POLLIN},
                               {.fd = signal_fd, .events = POLLIN},
                               {.fd = quit_fd, .events = POLLIN},
                               {.fd = lifeline_fd, .events = POLLIN}};
    while (poll(reasons, 4, -1) < 0 && errno == EINTR)
        ;
    if (reasons[0].revents)
        return NULL;
    fuse_session_exit(session);
    /* Its wait is a semaphore: a signal interrupts it, but is lost just before it, so again. */
    const struct timespec again = {.tv_nsec = 2000000};
    while (!atomic_load(&loop_done)) {
        pthread_kill(serving_thread, SIGUSR2);
        nanosleep(&again, NULL);
    }
    return NULL;
}

static int serve(void)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (config == NULL)
        return ENOMEM;
    fuse_loop_cfg_set_max_threads(config, RECEIVERS);
    struct sigaction quiet = {.sa_handler = do_nothing}, before;
    sigaction(SIGUSR2, &quiet, &before);
    serving_thread = pthread_self();
    pthread_t watcher;
    int error = pthread_create(&watcher, NULL, watch, NULL);
    if (!error) {
        atomic_store(&serving, true);
        int result = fuse_session_loop_mt(session, config);
        error = result < 0 ? -result : 0;
        atomic_store(&loop_done, true);
        const uint64_t one = 1;
        ssize_t written = write(done_fd, &one, sizeof one);
        (void)written; /* a counter at 0 takes a 1 */
        pthread_join(watcher, NULL);
        atomic_store(&serving, false);
    }
    sigaction(SIGUSR2, &before, NULL);
    fuse_loop_cfg_destroy(config);
    return error;
}

static PyObject *fail(int error, const char *what)
{
    size_t length = strlen(mount_complaint);
    while (length > 0 && mount_complaint[length - 1] == '\n')
        mount_complaint[--length] = '\0';
    PyObject *message = length > 0 ? PyUnicode_DecodeFSDefault(mount_complaint)
                                   : PyUnicode_FromFormat("%s: %s", what, strerror(error));
    if (message == NULL)
        return NULL;
    PyObject *arguments = Py_BuildValue("(iN)", error, message);
    if (arguments != NULL)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

static PyObject *serve_mounted(PyObject *on_ready, unsigned threads)
{
    int error = device_attach(session);
    if (error)
        return fail(error, "device");
    error = pace_start(threads, job_run);
    if (error)
        return fail(error, "threads");
    PyObject *ready = PyObject_CallNoArgs(on_ready);
    if (ready == NULL)
        return NULL;
    Py_DECREF(ready);
    Py_BEGIN_ALLOW_THREADS
    error = serve();
    Py_END_ALLOW_THREADS
    if (error)
        return fail(error, "serving");
    Py_RETURN_NONE;
}

static PyObject *run(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"source", "mountpoint", "mount_options", "on_ready", "latency_s",
                            "stream_bytes_per_s", "total_bytes_per_s", "attr_timeout_s",
                            "entry_timeout_s", "list_page_entries", "max_read_bytes",
                            "threads", "page_cache", "readdirplus", "moving_inodes",
                            "lifeline_fd", NULL};
    const char *source, *mountpoint, *mount_options;
    PyObject *on_ready;
    double latency_s, stream, total;
    unsigned threads;
    int page_cache, readdirplus, moving_inodes;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "yyyO$dddddIIIpppi", names, &source, &mountpoint, &mount_options,
            &on_ready, &latency_s, &stream, &total, &slow_settings.attr_timeout_s,
            &slow_settings.entry_timeout_s, &slow_settings.list_page_entries,
            &slow_settings.max_read_bytes, &threads, &page_cache, &readdirplus,
            &moving_inodes, &lifeline_fd))
        return NULL;
    if (slow_settings.list_page_entries == 0 || threads == 0) {
        PyErr_SetString(PyExc_ValueError, "list_page_entries and threads must be positive");
        return NULL;
    }
    if (atomic_exchange(&used, true)) {
        PyErr_SetString(PyExc_RuntimeError, "one slow source a process, and once");
        return NULL;
    }
    slow_settings.page_cache = page_cache;
    slow_settings.readdirplus = readdirplus;
    slow_settings.moving_inodes = moving_inodes;
    pace_set(latency_s, stream, total);

    int error = nodes_open(source, moving_inodes);
    if (error)
        return fail(error, source);
    sigset_t ours, before;
    sigemptyset(&ours);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ours, &before); /* inherited by every thread from here on */
    signal_fd = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    quit_fd = eventfd(0, EFD_CLOEXEC);
    done_fd = eventfd(0, EFD_CLOEXEC);

    fuse_set_log_func(keep_or_print);
    char *argv[] = {"slow-source", "-o", (char *)mount_options, NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(3, argv);
    PyObject *result;
    errno = 0;
    session = fuse_session_new(&arguments, &slow_operations, sizeof slow_operations, NULL);
    if (session == NULL) {
        result = fail(EINVAL, "mount options");
    } else if (fuse_session_mount(session, mountpoint) != 0) {
        result = fail(errno ? errno : EIO, "mount");
    } else {
        result = serve_mounted(on_ready, threads);
        Py_BEGIN_ALLOW_THREADS
        pace_stop(job_abandon);
        fuse_session_unmount(session);
        Py_END_ALLOW_THREADS
    }
    if (session != NULL)
        fuse_session_destroy(session);
    fuse_opt_free_args(&arguments);
    nodes_close();
    /* What asked for the end was answered: it must not come again with the old mask. */
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) > 0)
        ;
    close(signal_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static PyObject *stop(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    const uint64_t one = 1;
    if (quit_fd >= 0 && write(quit_fd, &one, sizeof one) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static int put(PyObject *counts, const char *name, unsigned long long value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int result = number != NULL ? PyDict_SetItemString(counts, name, number) : -1;
    Py_XDECREF(number);
    return result;
}

static PyObject *stats(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *counts = PyDict_New();
    if (counts == NULL)
        return NULL;
    int failed = 0;
    for (int op = 0; op < OP_COUNT; op++)
        failed |= put(counts, slow_op_names[op], atomic_load(&slow_counts[op]));
    failed |= put(counts, "bytes", atomic_load(&slow_bytes));
    failed |= put(counts, "in_flight", atomic_load(&slow_reads_in_flight));
    failed |= put(counts, "max_in_flight", atomic_load(&slow_reads_in_flight_max));
    failed |= put(counts, "faults", atomic_load(&slow_faults));
    failed |= put(counts, "hung", pace_parked());
    failed |= put(counts, "nodes", nodes_count());
    if (failed)
        Py_CLEAR(counts);
    return counts;
}

static void add_file(void *context, const struct file_counts *file)
{
    PyObject **files = context;
    if (*files == NULL)
        return;
    PyObject *key = PyBytes_FromString(file->path);
    PyObject *value = Py_BuildValue("(KKK)", atomic_load(&file->opens),
                                    atomic_load(&file->reads), atomic_load(&file->bytes));
    if (key == NULL || value == NULL || PyDict_SetItem(*files, key, value) < 0)
        Py_CLEAR(*files);
    Py_XDECREF(key);
    Py_XDECREF(value);
}

static PyObject *file_stats(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *files = PyDict_New();
    if (files != NULL)
        file_counts_visit(add_file, &files);
    return files;
}

static PyObject *reset_stats(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    counts_reset();
    Py_RETURN_NONE;
}

static PyObject *set_pace(PyObject *module, PyObject *args)
{
    (void)module;
    double latency_s, stream, total;
    if (!PyArg_ParseTuple(args, "ddd", &latency_s, &stream, &total))
        return NULL;
    pace_set(latency_s, stream, total);
    Py_RETURN_NONE;
}

static PyObject *add_fault(PyObject *module, PyObject *args)
{
    (void)module;
    const char *action, *op_name, *glob;
    struct fault_verdict verdict = {.action = FAULT_NONE};
    Py_ssize_t short_bytes;
    unsigned long long nth, count;
    if (!PyArg_ParseTuple(args, "sinsyKK", &action, &verdict.error, &short_bytes, &op_name, &glob,
                          &nth, &count))
        return NULL;
    if (strcmp(action, "error") == 0 && verdict.error > 0)
        verdict.action = FAULT_ERROR;
    else if (strcmp(action, "hang") == 0)
        verdict.action = FAULT_HANG;
    else if (strcmp(action, "short") == 0)
        verdict.action = FAULT_SHORT;
    verdict.short_bytes = (size_t)short_bytes;
    int op = 0;
    while (op < OP_COUNT && strcmp(op_name, slow_op_names[op]) != 0)
        op++;
    if (verdict.action == FAULT_NONE || short_bytes < 0 || nth == 0 ||
        (op == OP_COUNT && strcmp(op_name, "any") != 0)) {
        PyErr_SetString(PyExc_ValueError, "no such fault");
        return NULL;
    }
    int error = fault_add(&verdict, (enum slow_op)op, glob, nth, count);
    if (error)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *clear_faults(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    faults_clear();
    return PyLong_FromUnsignedLong(pace_release());
}

static PyObject *release(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(pace_release());
}

static PyObject *move_inodes(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(nodes_move());
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_VARARGS | METH_KEYWORDS,
     "Mount and serve until unmounted."},
    {"stop", stop, METH_NOARGS, "Make run() unmount and return."},
    {"stats", stats, METH_NOARGS, "Counters, by name."},
    {"file_stats", file_stats, METH_NOARGS, "path: (opens, reads, bytes)."},
    {"reset_stats", reset_stats, METH_NOARGS, "Set all counters to zero."},
    {"set_pace", set_pace, METH_VARARGS, "Latency in s, stream and total rate in bytes/s."},
    {"add_fault", add_fault, METH_VARARGS,
     "Add a rule: action, errno, short_bytes, op, glob, nth, count."},
    {"clear_faults", clear_faults, METH_NOARGS, "Drop all rules and let hung requests go on."},
    {"release", release, METH_NOARGS, "Let hung requests go on; the rules stay."},
    {"move_inodes", move_inodes, METH_NOARGS, "Pass the known files' numbers on."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_slowsource", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__slowsource(void)
{
    return PyModule_Create(&definition);
}
