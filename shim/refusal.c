#include "refusal.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t refusal_count(_Atomic uint64_t *count)
{
    uint64_t n = atomic_fetch_add(count, 1) + 1;
    return n <= LIMIT_REFUSALS || (n & (n - 1)) == 0 ? n : 0;
}

static void write_text(struct writer *w, const char *text)
{
    write_str(w, text, strlen(text));
}

static void write_number_key(struct writer *w, const char *key, uint64_t value)
{
    write_text(w, key);
    write_uint(w, value);
}

void write_refusal(struct writer *w, const struct refusal *refusal)
{
    bool has_mechanism = refusal->mechanism != UINT64_MAX;
    write_array(w, 3);
    write_uint(w, 2);
    write_text(w, "refused");
    write_array(w, 1);
    write_map(w, has_mechanism ? 6 : 4);
    write_text(w, "function"), write_text(w, refusal->function);
    write_text(w, "reason"), write_text(w, refusal->reason);
    write_number_key(w, "rv", refusal->rv);
    write_number_key(w, "count", refusal->count);
    if (has_mechanism) {
        write_number_key(w, "mechanism", refusal->mechanism);
        write_number_key(w, "length", refusal->length);
    }
}

static void read_entry(struct reader *r, struct refusal *refusal, char function[LIMIT_NAME + 1])
{
    char key[LIMIT_NAME + 1];
    read_text(r, key, sizeof key);
    if (!strcmp(key, "function"))
        read_text(r, function, LIMIT_NAME + 1);
    else if (!strcmp(key, "reason"))
        read_text(r, refusal->reason, sizeof refusal->reason);
    else if (!strcmp(key, "rv"))
        refusal->rv = read_uint(r);
    else if (!strcmp(key, "count"))
        refusal->count = read_uint(r);
    else if (!strcmp(key, "mechanism"))
        refusal->mechanism = read_uint(r);
    else if (!strcmp(key, "length"))
        refusal->length = read_uint(r);
    else
        read_skip(r);
}

void read_refusal(struct reader *r, struct refusal *ret_refusal, char function[LIMIT_NAME + 1])
{
    *ret_refusal = (struct refusal){.function = function, .mechanism = UINT64_MAX};
    function[0] = '\0';
    read_array_of(r, 1);
    for (size_t n = r->error ? 0 : read_map(r); n && !r->error; n--)
        read_entry(r, ret_refusal, function);
}

/* A reader of the log is somebody else: one line is one line. */
static void make_plain(char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~' || *text == '"')
            *text = '?';
}

/* Whoever reads our standard error may have stopped, and no call waits for that. */
static bool is_read(void)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && p.revents == POLLOUT;
}

void refusal_say(const char *event, const struct refusal *refusal)
{
    char line[512], mechanism[64] = "", reason[LIMIT_REASON + 1];
    memcpy(reason, refusal->reason, sizeof reason);
    make_plain(reason);
    if (refusal->mechanism != UINT64_MAX)
        snprintf(mechanism, sizeof mechanism, " mechanism=0x%llx length=%llu", (unsigned long long)refusal->mechanism,
                 (unsigned long long)refusal->length);
    int n = snprintf(line, sizeof line, "p11host: %s function=%s%s rv=0x%llx count=%llu reason=\"%s\"\n", event, refusal->function,
                     mechanism, (unsigned long long)refusal->rv, (unsigned long long)refusal->count, reason);
    if (n > 0 && (size_t)n < sizeof line && is_read() && write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* nobody to tell */
}
