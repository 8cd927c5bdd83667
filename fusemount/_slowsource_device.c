/* The FUSE device below libfuse: the answer to INIT says what libfuse 3.14 leaves out.
 *
 * FUSE_PARALLEL_DIROPS is wanted by libfuse but never sent before 3.17: without it the kernel
 * looks names up in one folder one after another, 10 ms each. FUSE_DIRECT_IO_ALLOW_MMAP (Linux
 * 6.6) is unknown to it: without it a file under direct_io cannot be mapped shared, as most
 * loaders of models do. Both are asked for only if the kernel offers them.
 */
#include "_slowsource.h"

#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef FUSE_INIT_EXT
#define FUSE_INIT_EXT (1u << 30)
#endif
/* In flags2, the upper half. */
#define ALLOW_MMAP_2 (1u << 4)
#define FLAGS2_OFFSET 16 /* in fuse_init_in; headers of older kernels do not name the field */

static uint32_t offered, offered2;
static bool asked, answered; /* by one thread each, before there is any other request */

static ssize_t read_request(int fd, void *buffer, size_t size, void *unused)
{
    (void)unused;
    ssize_t got = read(fd, buffer, size);
    const struct fuse_in_header *header = buffer;
    if (got < (ssize_t)sizeof *header || asked)
        return got;
    asked = true;
    const char *init = (const char *)buffer + sizeof *header;
    if (header->opcode != FUSE_INIT || header->len < sizeof *header + FLAGS2_OFFSET)
        return got;
    memcpy(&offered, init + offsetof(struct fuse_init_in, flags), sizeof offered);
    if ((offered & FUSE_INIT_EXT) && header->len >= sizeof *header + FLAGS2_OFFSET + 4)
        memcpy(&offered2, init + FLAGS2_OFFSET, sizeof offered2);
    return got;
}

static ssize_t write_answer(int fd, struct iovec *iov, int count, void *unused)
{
    (void)unused;
    if (!answered) {
        answered = true;
        /* major, minor, max_readahead, flags, four of 16 or 32 bits, then flags2 */
        const size_t flags_at = offsetof(struct fuse_init_out, flags), flags2_at = 32;
        if (count == 2 && iov[1].iov_len >= flags2_at + sizeof offered2) {
            uint32_t flags, flags2;
            char *init = iov[1].iov_base;
            memcpy(&flags, init + flags_at, sizeof flags);
            memcpy(&flags2, init + flags2_at, sizeof flags2);
            flags |= offered & FUSE_PARALLEL_DIROPS;
            if (flags & FUSE_INIT_EXT)
                flags2 |= offered2 & ALLOW_MMAP_2;
            memcpy(init + flags_at, &flags, sizeof flags);
            memcpy(init + flags2_at, &flags2, sizeof flags2);
        }
    }
    return writev(fd, iov, count);
}

/* Put these functions between the mounted `session` and its descriptor; 0 or an errno. */
int device_attach(struct fuse_session *session)
{
    const struct fuse_custom_io io = {.read = read_request, .writev = write_answer};
    return -fuse_session_custom_io(session, &io, fuse_session_fd(session));
}
