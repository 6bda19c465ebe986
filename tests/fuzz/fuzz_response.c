/*
 * The shim's decoder. How many bytes make up a call, these bytes, then the response to it: whatever it says, nothing is
 * written but the call's outputs, which lie behind fences.
 */
#include "ends.h"
#include "fence.h"
#include "fuzz.h"
#include "visit.h"

static void expect_only_outputs_touched(const struct leaves *leaves)
{
    for (size_t i = 0; i < leaves->count; i++)
        if (leaves->list[i].dir & DIR_OUT)
            fence_restore(leaves->list[i].at, leaves->list[i].size);
    if (fence_first_change())
        found("something was written that is no output");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct leaves leaves;
    if (size == 0 || data[0] >= size)
        return 0;
    struct dice dice = dice_from_bytes(data + 1, data[0]);
    const struct function *f = &functions[dice_throw(&dice, FUNCTION_COUNT)];
    if (!make_crosses(f))
        return 0;
    struct ends *e = ends_begin(f);
    if (dice_once_in(&dice, 2))
        ends_use_shelf(e);
    make_call(&dice, f, e->caller);
    visit_call(&leaves, f, e->caller, NULL, NULL);
    fence_snapshot();
    message_set(&e->message, data + 1 + data[0], size - 1 - data[0]);
    ends_read_response(e, dice_throw(&dice, 8));
    if (leaves.complete)
        expect_only_outputs_touched(&leaves);
    return 0;
}
