#include "message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void message_forget(struct message *m)
{
    free(m->bytes);
    *m = (struct message){0};
}

static void make_room(struct message *m, size_t len)
{
    message_forget(m);
    m->bytes = malloc(len ? len : 1);
    if (!m->bytes) {
        fputs("message: no memory\n", stderr);
        abort();
    }
    m->len = len;
}

void message_set(struct message *m, const void *bytes, size_t len)
{
    make_room(m, len);
    if (len)
        memcpy(m->bytes, bytes, len);
}

void message_take(struct message *m, struct writer *w)
{
    unsigned n = writer_seal(w);
    make_room(m, n ? w->total : 0);
    m->error = w->error;
    for (unsigned i = 0, at = 0; i < n; at += (unsigned)w->spans[i++].iov_len)
        memcpy(m->bytes + at, w->spans[i].iov_base, w->spans[i].iov_len);
    writer_reset(w);
}

long message_source(void *context, void *bytes, size_t max)
{
    struct message *m = context;
    size_t n = m->len - m->at;
    if (m->portion && n > m->portion)
        n = m->portion;
    if (n > max)
        n = max;
    memcpy(bytes, m->bytes + m->at, n);
    m->at += n;
    return (long)n;
}

bool message_is_read(const struct message *m, const struct reader *r)
{
    return m->at == m->len && r->pos == r->end;
}
