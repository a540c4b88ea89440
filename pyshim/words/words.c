/* A list of Python numbers as the 64-bit words of its values, for the codec of the Python package.
 *
 * A library of its own, which neither starts Go nor links Python: workers of every start method load it, in forked
 * children too, where Go must not run; and one build serves every Python, since the functions of Python's C API are
 * handed over by address (docs/RATIONALE.md, "Fast forms only for exact types"). Its caller holds the GIL: ctypes.PyDLL.
 *
 * Only functions of the stable ABI are used, https://docs.python.org/3/c-api/stable.html. The one thing known about an
 * object's memory is where its type stands, which the caller tells and `swg_words_bind` checks.
 */
#include <stddef.h>
#include <stdint.h>

typedef struct object object; /* PyObject */

/* In the order of API in python/schwimmbad_go/_words.py. */
static struct {
    long long (*as_int)(object *, int *overflow); /* PyLong_AsLongLongAndOverflow */
    double (*as_double)(object *);                /* PyFloat_AsDouble */
    ptrdiff_t (*size)(object *);                  /* PyList_Size */
    object *(*item)(object *, ptrdiff_t);         /* PyList_GetItem: a borrowed reference */
    object *(*bytes)(const char *, ptrdiff_t);    /* PyBytes_FromStringAndSize */
    char *(*data)(object *);                      /* PyBytes_AsString */
    void (*take)(object *);                       /* Py_IncRef */
    void (*drop)(object *);                       /* Py_DecRef */
} api;

static ptrdiff_t type_at; /* offset of an object's type in the object */
static object *none;

static object *type_of(object *o) { return *(object **)((char *)o + type_at); }

/* Take the functions over. 0 if `sample`, a list of objects, and `types`, a list of their types, show that types stand
 * elsewhere in this Python. */
int swg_words_bind(void *const *functions, ptrdiff_t offset, object *nothing, object *sample, object *types) {
    for (size_t i = 0; i < sizeof api / sizeof(void *); i++)
        ((void **)&api)[i] = functions[i];
    type_at = offset;
    none = nothing;
    for (ptrdiff_t i = 0; i < api.size(sample); i++)
        if (type_of(api.item(sample, i)) != api.item(types, i))
            return 0;
    return 1;
}

static object *not_so(object *made) {
    api.drop(made);
    api.take(none);
    return none;
}

/* Bytes for so many words; NULL with MemoryError. */
static object *make(object *values, ptrdiff_t first, ptrdiff_t *count) {
    if (first < 0 || *count < 0 || first > api.size(values) - *count)
        *count = 0; /* the list has become shorter */
    return api.bytes(NULL, 8 * *count);
}

/* Bytes with `count` values of a list of ints, from index `first` on. None if one is of another type or needs more than
 * 64 bits, or the list is shorter; NULL with MemoryError. 3 to 4 ns per int, where the pickler needs 8 (32 bits) to 27. */
object *swg_words_ints(object *values, ptrdiff_t first, ptrdiff_t count, object *type) {
    object *made = make(values, first, &count);
    if (made == NULL)
        return NULL;
    int64_t *out = (int64_t *)(void *)api.data(made);
    for (ptrdiff_t i = 0; i < count; i++) {
        object *value = api.item(values, first + i);
        int overflow = 1;
        if (type_of(value) == type)
            out[i] = api.as_int(value, &overflow);
        if (overflow)
            return not_so(made);
    }
    return count ? made : not_so(made);
}

/* The same for floats, of `type` float or a subtype such as numpy.float64 that adds nothing to the value. */
object *swg_words_floats(object *values, ptrdiff_t first, ptrdiff_t count, object *type) {
    object *made = make(values, first, &count);
    if (made == NULL)
        return NULL;
    double *out = (double *)(void *)api.data(made);
    for (ptrdiff_t i = 0; i < count; i++) {
        object *value = api.item(values, first + i);
        if (type_of(value) != type)
            return not_so(made);
        out[i] = api.as_double(value);
    }
    return count ? made : not_so(made);
}
