/*
 * What it costs to find out, by the page and by its stand-in, that this is still the process that it was:
 *
 *     meson test -C build --benchmark --verbose detection
 *
 * The root without anything that hangs off it. The least of many rounds is told, and a loop that does nothing beside it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "descriptors.h"
#include "root.h"
#include "selection.h"
#include "shared.h"
#include "state.h"

enum { ROUNDS = 200, LOOKS = 20000 };

/* ---- in place of what hangs off the root ---- */

static struct state the_state;

void selection_make(const struct selection *selection)
{
    (void)selection;
}

struct state *state_map(void)
{
    return &the_state;
}

CK_RV state_init(struct state *state, bool lazy)
{
    (void)state, (void)lazy;
    return CKR_OK;
}

CK_RV state_inherit(struct state *state, const struct state *parent, bool lazy)
{
    (void)parent;
    return state_init(state, lazy);
}

bool state_claim(struct state *state)
{
    (void)state;
    return false;
}

void state_keep_doors(const struct state *parent)
{
    (void)parent;
}

void state_end(struct state *state)
{
    (void)state;
}

void state_finish(struct state *state)
{
    (void)state;
}

void shared_leave_inherited(void)
{
}

void descriptors_close_inherited(void)
{
}

/* ---- rounds ---- */

static volatile uint32_t seen;

static uint32_t nothing(void)
{
    return 0;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* As a channel looks: at the page, or else through the pointer. */
static uint32_t look_again(void)
{
    static const _Atomic uint32_t *page;
    page = page ? page : root_life_page();
    return page ? atomic_load_explicit(page, memory_order_relaxed) : root_life();
}

static double least_ns(uint32_t (*volatile look)(void))
{
    double least = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now_ns();
        for (int i = 0; i < LOOKS; i++)
            seen = look();
        double each = (now_ns() - begin) / LOOKS;
        least = each < least ? each : least;
    }
    return least;
}

int main(void)
{
    if (state_initialize(&(struct selection){{0}}) != CKR_OK)
        return EXIT_FAILURE;
    const char *by = getenv("P11HOST_FORK_DETECTION");
    double idle = least_ns(nothing), first = least_ns(root_life), again = least_ns(look_again);
    printf("%s: %.2f ns for the first look of a call, %.2f ns for each of the other three; %.2f ns of it for calling a function\n",
           by ? by : "page", first, again, idle);
    return EXIT_SUCCESS;
}
