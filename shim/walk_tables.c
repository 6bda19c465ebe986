/* The walker's look into the tables: by number, by name. */
#include <string.h>

#include "walk.h"

const struct mechanism *tables_mechanism(const struct tables *tables, CK_MECHANISM_TYPE type)
{
    unsigned low = 0, high = tables->mechanism_count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (tables->mechanisms[middle].value < type)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tables->mechanism_count && tables->mechanisms[low].value == type ? &tables->mechanisms[low] : NULL;
}

const struct layout *tables_layout(const struct tables *tables, const char *name)
{
    for (unsigned i = 0; i < tables->layout_count; i++)
        if (!strcmp(tables->layouts[i].name, name))
            return &tables->layouts[i];
    return NULL;
}

static const struct attribute *tables_attribute(const struct tables *tables, CK_ATTRIBUTE_TYPE type)
{
    unsigned low = 0, high = tables->attribute_count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (tables->attributes[middle].value < type)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tables->attribute_count && tables->attributes[low].value == type ? &tables->attributes[low] : NULL;
}

enum value_kind attribute_kind(const struct tables *tables, CK_ATTRIBUTE_TYPE type)
{
    const struct attribute *row = tables_attribute(tables, type);
    return row ? row->kind : VALUE_BYTES;
}

bool attribute_shown(const struct tables *tables, CK_ATTRIBUTE_TYPE type)
{
    const struct attribute *row = tables_attribute(tables, type);
    return row && row->shown;
}
