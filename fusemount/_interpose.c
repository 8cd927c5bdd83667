/* fusemount._interpose: takes the place of libfuse's fuse_session_receive_buf() for pyfuse3.
 *
 * libfuse's receive runs with Python's lock held.  On a blocking descriptor it can sleep in the
 * kernel when the request that poll() announced was withdrawn (its client was killed), and the
 * whole process sleeps with it.  On a non-blocking one it returns -EAGAIN, which pyfuse3 takes
 * for the end of the mount.  This receive reads once and says -EINTR instead of -EAGAIN, which
 * pyfuse3 answers by polling again.  It also spares the two splice calls that libfuse spends on
 * every request.
 *
 * The dynamic linker binds pyfuse3 to this definition because this module is loaded with
 * RTLD_GLOBAL before pyfuse3 is; fusemount/interpose.py does that, refuses another libfuse than
 * the one this was compiled against, and checks by receive_count() that it is in effect.
 */
#define PY_SSIZE_T_CLEAN
#define FUSE_USE_VERSION 314
#include <Python.h>

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* The largest request: a WRITE of the negotiated max_write (1 MiB) behind its headers. */
enum { RECEIVE_BYTES = (1 << 20) + 4096 };

static atomic_ulong receive_count;

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
    ssize_t got;

    atomic_fetch_add_explicit(&receive_count, 1, memory_order_relaxed);
    if (buf->mem == NULL) {
        buf->mem = malloc(RECEIVE_BYTES);
        if (buf->mem == NULL)
            return -ENOMEM;
    }
    got = read(fuse_session_fd(se), buf->mem, RECEIVE_BYTES);
    if (got < 0) {
        if (errno == EAGAIN || errno == ENOENT || errno == EINTR)
            return -EINTR; /* nothing there any more: poll again */
        if (errno == ENODEV) {
            fuse_session_exit(se); /* unmounted */
            return 0;
        }
        return -errno;
    }
    buf->size = (size_t)got;
    buf->flags = 0;
    return (int)got;
}

static PyObject *get_receive_count(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromUnsignedLong(atomic_load(&receive_count));
}

static PyObject *get_built_for(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromLong(FUSE_VERSION);
}

static PyObject *get_running_on(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromLong(fuse_version());
}

static PyMethodDef methods[] = {
    {"receive_count", get_receive_count, METH_NOARGS,
     "How many times pyfuse3 has received through this module."},
    {"built_for", get_built_for, METH_NOARGS, "The libfuse this was compiled against (314: 3.14)."},
    {"running_on", get_running_on, METH_NOARGS, "The libfuse that is loaded (314: 3.14)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "fusemount._interpose", "The receive that never sleeps.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__interpose(void)
{
    return PyModule_Create(&module);
}
