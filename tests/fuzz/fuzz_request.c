/*
 * The helper's decoder. A byte that says how the rest arrives, then a request. What is accepted must be something a
 * provider can work with, and the answer to it a message again.
 */
#include <string.h>

#include "ends.h"
#include "evil.h"
#include "fuzz.h"
#include "stand_in.h"

enum { MOST = 4096, EXACT_MOST = 1 << 16 };

static const struct function *find_function(const char *name)
{
    for (unsigned i = 0; i < FUNCTION_COUNT; i++)
        if (!functions[i].local && !strcmp(functions[i].name, name))
            return &functions[i];
    return NULL;
}

/* As a helper does; without a function it skips the rest. */
static const struct function *read_head(struct reader *r)
{
    char method[LIMIT_NAME + 1];
    if (read_array(r) != 4 || read_uint(r) != 0 || read_uint(r) > UINT32_MAX)
        return NULL;
    read_text(r, method, sizeof method);
    const struct function *f = r->error ? NULL : find_function(method);
    if (!f)
        read_skip(r);
    return f;
}

/* The helper writes as many random bytes as it was asked for, however many: that much is not tried here. */
static bool answers_too_much(const struct ends *e)
{
    int i = make_find_arg(e->helper.function, ARG_OUT_EXACT);
    return i >= 0 && e->provider[e->helper.function->args[i].len] > EXACT_MOST;
}

static void answer(struct ends *e, uint64_t seed)
{
    static struct leaves leaves;
    static struct place places[PLACES];
    struct dice dice = dice_from_seed(seed);
    static const CK_RV answers[] = {CKR_OK, CKR_BUFFER_TOO_SMALL, CKR_ATTRIBUTE_SENSITIVE, CKR_FUNCTION_FAILED};
    CK_RV rv = answers[dice_throw(&dice, 4)];
    visit_call(&leaves, e->helper.function, e->provider, ends_gave, e);
    const char *fault = stand_in_finds_fault(&leaves, e);
    if (fault)
        found(fault);
    stand_in_reads(&leaves);
    stand_in_spoils(&dice, &leaves, e->provider);
    stand_in_writes(&dice, &leaves, rv, MOST);
    if (answers_too_much(e))
        return;
    ends_write_response(e, rv);
    if (!e->message.error && evil_places(&e->message, places) == 0)
        found("the answer is no message");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t portions[] = {0, 1, 3, 64};
    static struct message request;
    static uint8_t buffer[READER_BUFFER];
    struct reader head;
    if (size == 0)
        return 0;
    message_set(&request, data + 1, size - 1);
    request.portion = portions[data[0] >> 1 & 3];
    reader_init(&head, buffer, message_source, &request);
    const struct function *f = read_head(&head);
    if (!f)
        return 0;
    struct ends *e = ends_begin(f);
    if (data[0] & 1)
        ends_use_shelf(e);
    head.shelf = e->shelf;
    e->helper.r = &head;
    get_request(&e->helper);
    if (head.error == 0)
        answer(e, size * 31 + data[size - 1]);
    return 0;
}
