/* Loading a provider: what is asked of it, and what is said when it is not fit. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "provider.h"
#include "test.h"

static struct provider provider;
static bool serialized; /* by the configuration */
static char error[512];

static CK_RV load(const char *mode, const char *reserved)
{
    if (mode)
        setenv("SAMPLE", mode, 1);
    else
        unsetenv("SAMPLE");
    memset(&provider, 0, sizeof provider);
    provider.serialize = serialized;
    memset(error, 0, sizeof error);
    CK_RV rv = provider_load(&provider, SAMPLE_PROVIDER, error, sizeof error);
    return rv ? rv : provider_initialize(&provider, SAMPLE_PROVIDER, reserved, error, sizeof error);
}

/* A variable of the library, which stays loaded. */
static void *find(const char *name)
{
    void *found = dlsym(dlopen(SAMPLE_PROVIDER, RTLD_NOW | RTLD_NOLOAD), name);
    expect(found != NULL);
    return found;
}

static void a_provider_is_loaded_for_threads(void)
{
    expect_number(CKR_OK, load(NULL, NULL));
    const CK_C_INITIALIZE_ARGS *args = find("sample_args");
    expect(provider.list.C_Initialize && !provider.list.C_SessionCancel && !provider.list.C_VerifySignature);
    expect_number(2, provider.version.major);
    expect_number(40, provider.version.minor);
    expect(!provider.serialize);
    expect_number(CKF_OS_LOCKING_OK, args->flags);
    expect(!args->CreateMutex && !args->pReserved);
}

static void the_reserved_string_reaches_it(void)
{
    expect_number(CKR_OK, load(NULL, "configdir='sql:/tmp'"));
    const CK_C_INITIALIZE_ARGS *args = find("sample_args");
    expect_text("configdir='sql:/tmp'", args->pReserved);
}

static void one_that_cannot_lock_is_called_in_turn(void)
{
    expect_number(CKR_OK, load("no-threads", NULL));
    expect(provider.serialize);
    expect_number(1, *(int *)find("sample_null"));
    expect_number(CKR_OK, load("no-threads", "string"));
    const CK_C_INITIALIZE_ARGS *args = find("sample_args");
    expect(provider.serialize);
    expect_number(0, args->flags);
    expect_text("string", args->pReserved);
}

static void one_that_must_be_called_in_turn_needs_no_locks(void)
{
    *(int *)find("sample_calls") = 0;
    serialized = true;
    expect_number(CKR_OK, load("no-threads", NULL));
    expect(provider.serialize);
    expect_number(1, *(int *)find("sample_null"));
    expect_number(CKR_OK, load(NULL, "string"));
    const CK_C_INITIALIZE_ARGS *args = find("sample_args");
    expect_number(0, args->flags);
    expect_text("string", args->pReserved);
    expect_number(2, *(int *)find("sample_calls"));
    serialized = false;
}

static void its_refusal_is_told(void)
{
    expect_number(CKR_DEVICE_ERROR, load(NULL, "fail"));
    expect(strstr(error, SAMPLE_PROVIDER) && strstr(error, "C_Initialize answered CKR_DEVICE_ERROR"));
}

static void a_list_that_is_none_is_told(void)
{
    expect_number(CKR_GENERAL_ERROR, load("null", NULL));
    expect(strstr(error, "C_GetFunctionList"));
    expect_number(CKR_FUNCTION_FAILED, load("error", NULL));
    expect(strstr(error, "C_GetFunctionList answered CKR_FUNCTION_FAILED"));
    expect_number(CKR_FUNCTION_NOT_SUPPORTED, load("empty", NULL));
}

/* What the library answers to functions of 2.40, 3.0 and 3.2, and the version it is believed to have. */
static const struct expectation {
    const char *mode;
    CK_RV logout, cancel, verify;
    CK_VERSION version;
} expectations[] = {
    {"3.0", 0x300, 0x300, CKR_FUNCTION_NOT_SUPPORTED, {3, 0}},
    {"3.1", 0x300, 0x300, CKR_FUNCTION_NOT_SUPPORTED, {3, 1}},
    {"3.2", 0x320, 0x300, 0x320, {3, 2}},
    {"old default", 0x320, 0x300, 0x320, {3, 2}},
    {"holes", 0x240, CKR_FUNCTION_NOT_SUPPORTED, 0x320, {3, 2}},
    {"3.0 for all", 0x300, 0x300, CKR_FUNCTION_NOT_SUPPORTED, {3, 0}},
    {"2.40 for all", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"4.0 for all", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"vendor's for all", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"nameless", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"hollow", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"nothing", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"0x54", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
    {"none", 0x240, CKR_FUNCTION_NOT_SUPPORTED, CKR_FUNCTION_NOT_SUPPORTED, {2, 40}},
};

static CK_RV ask(unsigned fn)
{
    uintptr_t words[16] = {0};
    return provider_call(&provider, fn, words);
}

/* A list that is shorter than was asked for is not read past its end: the sanitizer would tell. */
static void the_newest_list_is_used(void)
{
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) {
        const struct expectation *expected = &expectations[i];
        test_case("%s", expected->mode);
        expect_number(CKR_OK, load(expected->mode, NULL));
        expect_number(expected->logout, ask(FN_C_Logout));
        expect_number(expected->cancel, ask(FN_C_SessionCancel));
        expect_number(expected->verify, ask(FN_C_VerifySignature));
        expect_number(expected->version.major, provider.version.major);
        expect_number(expected->version.minor, provider.version.minor);
    }
}

static void a_file_that_is_no_provider_is_told(void)
{
    expect_number(CKR_GENERAL_ERROR, provider_load(&provider, SAMPLE_ALMOST, error, sizeof error));
    expect(strstr(error, SAMPLE_ALMOST) && strstr(error, "is not a PKCS#11 library"));
    expect(dlopen(SAMPLE_ALMOST, RTLD_NOW | RTLD_NOLOAD) == NULL); /* it was not loaded to find out */
    expect_number(CKR_GENERAL_ERROR, provider_load(&provider, "/nowhere.so", error, sizeof error));
    expect_text("/nowhere.so: cannot be opened", error);
}

static void a_library_that_cannot_be_loaded_is_told(void)
{
    expect_number(CKR_GENERAL_ERROR, provider_load(&provider, SAMPLE_BROKEN, error, sizeof error));
    expect(strstr(error, "nowhere_to_be_found"));
}

static void long_errors_are_cut(void)
{
    char small[16];
    expect_number(CKR_GENERAL_ERROR, provider_load(&provider, "/nowhere/at/all/to/be/found.so", small, sizeof small));
    expect_number(sizeof small - 1, strlen(small));
}

/* ---- calling ---- */

static _Atomic int inside, most;

static CK_RV busy(CK_SESSION_HANDLE session)
{
    int now = atomic_fetch_add(&inside, 1) + 1;
    if (now > atomic_load(&most))
        atomic_store(&most, now);
    for (int i = 0; i < 20; i++)
        sched_yield();
    atomic_fetch_sub(&inside, 1);
    return session;
}

static void *call_often(void *argument)
{
    for (uintptr_t i = 0; i < 50; i++) {
        uintptr_t words[16] = {i};
        expect_number(i, provider_call(argument, FN_C_Logout, words));
    }
    return NULL;
}

static void a_provider_without_threads_has_one_caller(void)
{
    struct provider serial = {.list.C_Logout = busy, .serialize = true, .turn = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[6];
    for (unsigned i = 0; i < 6; i++)
        expect_number(0, pthread_create(&threads[i], NULL, call_often, &serial));
    for (unsigned i = 0; i < 6; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    expect_number(1, atomic_load(&most));
}

/* Not one of the 104. */
static void what_a_provider_lacks_is_not_supported(void)
{
    struct provider none = {0};
    for (unsigned fn = 0; fn <= FUNCTION_COUNT; fn++) {
        uintptr_t words[16] = {0};
        test_case("function %u", fn);
        expect_number(CKR_FUNCTION_NOT_SUPPORTED, provider_call(&none, fn, words));
    }
}

static const struct test tests[] = {
    TEST(a_provider_is_loaded_for_threads, "a provider is initialised for threads, with the system's locks"),
    TEST(the_reserved_string_reaches_it, "a string from the configuration reaches C_Initialize"),
    TEST(one_that_cannot_lock_is_called_in_turn, "a provider that cannot lock is initialised without, and called in turn"),
    TEST(one_that_must_be_called_in_turn_needs_no_locks, "a provider that is called in turn anyway is not asked for locks"),
    TEST(its_refusal_is_told, "what C_Initialize answered is told, with a sentence"),
    TEST(a_list_that_is_none_is_told, "a provider without functions is refused"),
    TEST(the_newest_list_is_used, "the newest list of functions is used, and none that is not what it should be"),
    TEST(a_file_that_is_no_provider_is_told, "what is no provider is refused before it is loaded"),
    TEST(a_library_that_cannot_be_loaded_is_told, "why a library cannot be loaded is told in the linker's words"),
    TEST(long_errors_are_cut, "an error that does not fit is cut"),
    TEST(a_provider_without_threads_has_one_caller, "a provider that cannot have threads has one caller at a time"),
    TEST(what_a_provider_lacks_is_not_supported, "a function a provider lacks is not supported"),
};

TEST_MAIN(tests)
